"""Evidently: its drift preset, which takes a data frame for each window."""

from session import serve, windows


def preset(reference, window):
    """The largest of the columns' drift scores."""
    import pandas
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    names = [f"f{index}" for index in range(reference.shape[1])]
    definition = DataDefinition(numerical_columns=names)
    usual = Dataset.from_pandas(pandas.DataFrame(reference, columns=names), definition)

    def score(stream):
        for rows in windows(stream, window):
            present = Dataset.from_pandas(pandas.DataFrame(rows, columns=names), definition)
            metrics = Report([DataDriftPreset()]).run(present, usual).dict()["metrics"]
            # Of a reference of more than 1,000 rows: Wasserstein distances, in spreads.
            values = [each["value"] for each in metrics if "ValueDrift" in each["metric_name"]]
            yield max(float(value) for value in values)

    return score


if __name__ == "__main__":
    serve({"DataDriftPreset": preset})
