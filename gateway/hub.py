"""The Hub's lists of text-to-speech models: asked for seldom, kept on disk, served stale rather than not at all.

Knows what the Hub says of models, and nothing of workers. The Hub is asked through its own library's session, on
threads; the answers are read here, because the library's reader fails on a whole list where one entry is odd.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import structlog
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers, filter_repo_objects, hf_raise_for_status, http_backoff
from pydantic import Field, TypeAdapter

TASK = "text-to-speech"

# As in worker/store/hub.py, on purpose: the two sides share nothing but the contract.
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")

PROPERTIES = (
    *("cardData", "config", "createdAt", "downloads", "gated", "lastModified", "library_name", "likes"),
    *("pipeline_tag", "safetensors", "siblings", "tags", "trendingScore"),
)

MOST_LISTED = 100
"""Models of every list, however few a request wants: its length must not be a reason to ask the Hub."""

MEASURED_AHEAD = 20
"""Models of a new list whose file sizes are asked for at once; it takes a request for each."""

PATIENCE_S = 8.0
"""How long a request waits for a list that is not there yet."""

RETRY_S = 30.0
"""Pause after a failure before the Hub is asked again."""

MOST_LISTS = 50
MOST_SEARCHES_AT_ONCE = 4
THREADS = 8

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the Hub says of a model, as `GET /api/models` shows it."""

    id: str
    pipeline_tag: str | None
    likes: int | None
    downloads: int | None
    tags: list[str]
    library_name: str | None
    last_modified: str | None
    created_at: str | None
    trending_score: int | float | None
    gated: bool | str
    license: str | None
    parameters: int | None
    languages: list[str]


@dataclass(frozen=True, slots=True)
class Listed:
    """A model of a list.

    Attributes:
        facts: What is shown of it.
        model_type: `model_type` of its config.json.
        architectures: `architectures` of its config.json.
        files: Paths of its files.
        sizes: Sizes of the files in bytes, by path; empty where they are not known.
    """

    facts: Facts
    model_type: str
    architectures: list[str]
    files: list[str]
    sizes: dict[str, int] = field(default_factory=dict)

    def download_size(self, patterns: Sequence[str]) -> int | None:
        """Size of the files that match some pattern, in bytes; None if the Hub did not say."""
        wanted = list(filter_repo_objects(self.sizes, allow_patterns=list(patterns)))
        return sum(self.sizes[path] for path in wanted) or None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A list as it was at some time; this is what is kept on disk.

    Attributes:
        asked_at: When the Hub gave it, in seconds since the epoch; 0 if it never did.
        models: The models, the most trending first.
        measured: For how many of the first models the sizes were asked for.
    """

    asked_at: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.0
    models: list[Listed] = field(default_factory=list)
    measured: Annotated[int, Field(ge=0)] = 0

    def covers(self, limit: int) -> bool:
        """Whether all is known of the first models that can be."""
        return self.asked_at > 0 and self.measured >= len(self.models[:limit])


@dataclass(slots=True)
class Listing:
    """What is known of a search.

    Attributes:
        last: The last good list.
        failed_at: When the Hub was asked in vain since then, on the monotonic clock; None if it was not.
        work: The attempt under way to learn more.
    """

    last: Snapshot = field(default_factory=Snapshot)
    failed_at: float | None = None
    work: asyncio.Task[None] | None = None


LISTED, SNAPSHOT, SIZES = TypeAdapter(Listed), TypeAdapter(Snapshot), TypeAdapter(dict[str, int])


class HubList:
    """Lists of models of the Hub, by search.

    Args:
        folder: Where the last good list of trending models is kept.
        ttl_s: How long a list counts as fresh.
    """

    def __init__(self, folder: Path, ttl_s: float) -> None:
        logging.getLogger("huggingface_hub").handlers.clear()  # It would write everything once more, in its own form.
        self._path = folder.expanduser() / "trending.json"
        self._ttl_s = ttl_s
        self._lists: dict[str, Listing] = {}
        self._turns = asyncio.Semaphore(MOST_SEARCHES_AT_ONCE)

    async def get(self, search: str, limit: int) -> tuple[list[Listed], bool]:
        """Give a list, fresh if it can be had soon.

        One refresh of a list runs at a time; while it does, the last list is the answer.

        Args:
            search: Part of the model ids; empty for all.
            limit: Most models, up to `MOST_LISTED`.

        Returns:
            The models, and whether the list is stale: the Hub was asked in vain since, or there never was a list.
        """
        listing = self._listing(search)
        self._begin(listing, search, limit)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while listing.work and not listing.last.covers(limit):
                    await asyncio.wait({listing.work})
                    if not listing.last.covers(limit):  # The work was begun by somebody who wanted less, or failed.
                        self._begin(listing, search, limit)
        return listing.last.models[:limit], not listing.last.asked_at or listing.failed_at is not None

    async def stop(self) -> None:
        """Give up what is being asked."""
        for listing in self._lists.values():
            if listing.work:
                listing.work.cancel()

    def _listing(self, search: str) -> Listing:
        if search not in self._lists:
            self._lists[search] = Listing() if search else Listing(self._from_disk())
            idle = [key for key, listing in self._lists.items() if key not in ("", search) and not listing.work]
            for key in idle[: max(0, len(self._lists) - MOST_LISTS)]:
                del self._lists[key]
        return self._lists[search]

    def _begin(self, listing: Listing, search: str, limit: int) -> None:
        """Begin to learn what is missing, unless somebody does."""
        if not listing.work and (self._is_due(listing) or (listing.last.asked_at and not listing.last.covers(limit))):
            listing.work = asyncio.create_task(self._learn(listing, search, limit))

    def _is_due(self, listing: Listing) -> bool:
        """Whether the Hub should be asked for the list."""
        has_rested = listing.failed_at is None or time.monotonic() - listing.failed_at > RETRY_S
        return has_rested and time.time() - listing.last.asked_at >= self._ttl_s

    async def _learn(self, listing: Listing, search: str, limit: int) -> None:
        """Ask for the list if it is due, and for the sizes of its first models as far as they are missing."""
        # Anybody can make up searches, so they take turns; the one list that everybody sees waits for none of them.
        turns = self._turns if search else contextlib.nullcontext()
        waiting = asyncio.timeout(PATIENCE_S)
        try:
            async with waiting, turns:
                waiting.reschedule(None)
                last = listing.last
                if self._is_due(listing):
                    last, limit = Snapshot(time.time(), await asyncio.to_thread(_ask, search)), MEASURED_AHEAD
                    listing.failed_at = None
                limit = max(limit, last.measured)
                measured = await asyncio.to_thread(_measure, last.models[last.measured : limit])
                models = [*last.models[: last.measured], *measured, *last.models[limit:]]
                listing.last = replace(last, models=models, measured=limit)
                if not search:
                    await asyncio.to_thread(self._to_disk, listing.last)
        except TimeoutError:
            log.warning("too many searches of the hub at once")
        except Exception as error:  # The library raises what its transport raises; none of it may reach a request.
            listing.failed_at = time.monotonic()
            log.warning("the hub's list of models is not to be had", why=f"{type(error).__name__}: {error}"[:300])
        finally:
            listing.work = None

    def _to_disk(self, last: Snapshot) -> None:
        fresh = self._path.with_suffix(f".{os.getpid()}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(SNAPSHOT.dump_json(last))
            fresh.replace(self._path)
        except OSError as error:
            log.warning("the list of models is not kept", path=str(self._path), why=str(error))

    def _from_disk(self) -> Snapshot:
        try:
            kept = SNAPSHOT.validate_json(self._path.read_bytes(), strict=True)
        except (OSError, ValueError):  # There is none, or it is damaged.
            return Snapshot()
        return replace(kept, asked_at=min(kept.asked_at, time.time()))


def _get(path: str, query: dict[str, Any], retries: int) -> Any:  # noqa: ANN401  # JSON.
    token = next(filter(None, map(os.environ.get, TOKENS)), None)
    answer = http_backoff(
        "GET",
        f"{constants.ENDPOINT}/api/models{path}",
        params=query,
        headers=build_hf_headers(token=token),
        timeout=PATIENCE_S,
        max_retries=retries,
    )
    hf_raise_for_status(answer)
    return answer.json()


def _ask(search: str) -> list[Listed]:
    query = {"pipeline_tag": TASK, "sort": "trendingScore", "limit": MOST_LISTED, "expand": PROPERTIES}
    entries = _get("", query | ({"search": search} if search else {}), retries=2)
    if not isinstance(entries, list):
        raise ValueError(f"a list was expected, not {str(entries)[:100]}")
    models = []
    for entry in entries[:MOST_LISTED]:
        try:
            models.append(_listed(entry))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            log.warning("an entry of the hub's list is passed over", entry=str(entry)[:100], why=str(error)[:300])
    return models


def _measure(models: Sequence[Listed]) -> list[Listed]:
    """Look up the sizes of the models' files; the list tells none. A model that cannot be looked at stays without."""

    def measured(model: Listed) -> Listed:
        try:
            files = _get(f"/{model.facts.id}", {"blobs": True}, retries=0)["siblings"]
            sizes = SIZES.validate_python({file["rfilename"]: file.get("size") or 0 for file in files})
        except Exception as error:
            log.debug("no sizes of files", model=model.facts.id, why=str(error)[:200])
            return model
        return replace(model, sizes=sizes)

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(measured, models))


def _listed(entry: dict[str, Any]) -> Listed:
    """Read an entry of the list.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: It is not what the Hub documents. Only its card may be
            odd, for that is what people write by hand.
    """
    card = entry["cardData"] if isinstance(entry.get("cardData"), dict) else {}
    config = entry.get("config") or {}
    tags = entry.get("tags") or []
    tagged = [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
    licenses = [*_texts(card.get("license_name")), *_texts(card.get("license")), *tagged]
    facts = {
        "id": entry["id"],
        "pipeline_tag": entry.get("pipeline_tag"),
        "likes": entry.get("likes"),
        "downloads": entry.get("downloads"),
        "tags": tags,
        "library_name": entry.get("library_name"),
        "last_modified": entry.get("lastModified"),
        "created_at": entry.get("createdAt"),
        "trending_score": entry.get("trendingScore"),
        "gated": entry.get("gated") or False,
        "license": licenses[0] if licenses else None,
        "parameters": (entry.get("safetensors") or {}).get("total"),
        "languages": _texts(card.get("language")),
    }
    return LISTED.validate_python(
        {
            "facts": facts,
            "model_type": config.get("model_type") or "",
            "architectures": config.get("architectures") or [],
            "files": [file["rfilename"] for file in entry.get("siblings") or ()],
        }
    )


def _texts(value: object) -> list[str]:
    """Read what a card may give as one text or several."""
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
