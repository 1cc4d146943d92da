"""Data sets of stage 1, loaded by name."""

from __future__ import annotations

import dataclasses

from featbank import errors
from stage1.data.catalogue import DATASETS, dataset_problems, resolved_settings
from stage1.data.images import ImageDataset
from stage1.data.settings import DatasetSettings
from stage1.data.sources import READERS


def load_dataset(settings: DatasetSettings, *, originals: bool = False) -> ImageDataset:
    """Load a data set.

    Parameters
    ----------
    settings
        With None for the defaults of the data set.
    originals
        Stream images that `image_size` cuts, so that crops can be taken from the originals.

    Raises
    ------
    ConfigError
        For a wrong name or option, a missing list file or a missing data set.
    DataError, LabelRange
        For an image or a list line that cannot be used.
    """
    if problems := dataset_problems(settings):
        raise errors.ConfigError(" ".join(problems))
    row = DATASETS[settings.name]
    settings = resolved_settings(settings)
    if originals and settings.image_size is not None:
        settings = dataclasses.replace(settings, stream=True)
    return READERS[row.reader](settings, row)
