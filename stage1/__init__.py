"""Stage 1: images → checkpoint → bank.

`stage1.train.train` trains a backbone on a long-tailed data set; `stage1.extract.extract` writes
its features to a bank. Nothing here knows of a result.
"""
