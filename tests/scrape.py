"""What Prometheus makes of the metrics of a gateway or a worker."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.stack import PATIENCE_S


class Scrape:
    """Everything that was exposed at once.

    Args:
        text: In Prometheus's text format.
    """

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples = [sample for family in self.families.values() for sample in family.samples]

    @classmethod
    def of(cls, url: str) -> Scrape:
        answer = httpx.get(f"{url}/metrics", timeout=PATIENCE_S)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        return cls(answer.text)

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples that have a name and these labels, whatever others; 0 if there is none."""
        return sum(each.value for each in self._samples if each.name == name and labels.items() <= each.labels.items())

    def labels(self, name: str) -> list[dict[str, str]]:
        """The labels of the samples that have a name."""
        return [each.labels for each in self._samples if each.name == name]
