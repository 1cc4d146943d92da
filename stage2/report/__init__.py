"""One offline HTML page of a results file: the only place that knows of plotly."""
