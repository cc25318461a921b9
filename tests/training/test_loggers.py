import csv
from pathlib import Path

from cifar_lit.training.loggers import ResumableCSVLogger


def test_metrics_are_readable_at_any_time_and_resumed(tmp_path: Path) -> None:
    def rows() -> list[dict[str, str]]:
        with open(tmp_path / "run" / "version_0" / "metrics.csv", newline="", encoding="utf-8") as file:
            return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]

    logger = ResumableCSVLogger(str(tmp_path), "run", 0)
    for step in range(4):
        logger.log_metrics({"lr": step / 2}, step)
    logger.save()
    logger.log_metrics({"loss": 1.5}, 3)  # a new column
    logger.save()
    assert rows()[2:] == [{"lr": "1.0", "step": "2"}, {"lr": "1.5", "step": "3"}, {"loss": "1.5", "step": "3"}]
    resumed = ResumableCSVLogger(str(tmp_path), "run", 0, before_step=2)
    resumed.log_metrics({"lr": 7.0}, 2)
    resumed.save()
    assert [row["lr"] for row in rows()] == ["0.0", "0.5", "7.0"]
