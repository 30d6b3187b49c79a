"""The Hub's list of text-to-speech models: asked for seldom, kept on disk, served stale rather than not at all.

Knows what the Hub says of models, and nothing of workers. The Hub is asked through its own library, on threads.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import structlog
from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects

TASK = "text-to-speech"
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
PROPERTIES: tuple[Any, ...] = (  # The library wants literals of its own here.
    *("author", "cardData", "config", "createdAt", "disabled", "downloads", "gated", "lastModified", "library_name"),
    *("likes", "pipeline_tag", "private", "safetensors", "sha", "siblings", "tags", "trendingScore"),
)

PATIENCE_S = 8.0
"""How long a request waits for a list that is not there yet."""

RETRY_S = 30.0
"""Pause after a failure before the Hub is asked again."""

MOST_LISTS = 50
THREADS = 8

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Listed:
    """What the Hub says of a model.

    Attributes:
        facts: As `GET /api/models` shows them.
        model_type: `model_type` of its config.json.
        architectures: `architectures` of its config.json.
        sizes: Size in bytes of every file by path; 0 where it is not known.
    """

    facts: dict[str, Any]
    model_type: str
    architectures: Sequence[str]
    sizes: dict[str, int]

    def download_size(self, patterns: Sequence[str]) -> int | None:
        """Size of the files that match some pattern, in bytes; None if the Hub did not say."""
        wanted = list(filter_repo_objects(self.sizes, allow_patterns=list(patterns)))
        return sum(self.sizes[path] for path in wanted) or None


@dataclass(slots=True)
class Listing:
    """A list as it was at some time.

    Attributes:
        models: The models, the most trending first.
        asked_at: When the Hub gave it, in seconds since the epoch; 0 if it never did.
        failed_at: When it was last asked in vain, on the monotonic clock.
        refresh: The attempt under way.
    """

    models: list[Listed] = field(default_factory=list)
    asked_at: float = 0.0
    failed_at: float = float("-inf")
    refresh: asyncio.Task[None] | None = None


class HubList:
    """Lists of models of the Hub, by search and length.

    Args:
        folder: Where the last good list of trending models is kept.
        ttl_s: How long a list counts as fresh.
    """

    def __init__(self, folder: Path, ttl_s: float) -> None:
        self._path = folder.expanduser() / "trending.json"
        self._ttl_s = ttl_s
        self._lists: dict[tuple[str, int], Listing] = {}

    async def get(self, search: str, limit: int) -> tuple[list[Listed], bool]:
        """Give a list, fresh if it can be had soon.

        One refresh of a list runs at a time; while it does, the last list is the answer.

        Args:
            search: Part of the model ids; empty for all.
            limit: Most models.

        Returns:
            The models, and whether the list is stale: older than it should be, or empty because there never was one.
        """
        listing = self._lists.get((search, limit))
        if not listing:
            listing = self._lists[search, limit] = self._from_disk(limit) if not search else Listing()
            while len(self._lists) > MOST_LISTS:
                del self._lists[next(iter(self._lists))]
        if not self._is_fresh(listing) and time.monotonic() - listing.failed_at > RETRY_S and not listing.refresh:
            listing.refresh = asyncio.create_task(self._refresh(listing, search, limit))
        if listing.refresh and not listing.asked_at:
            await asyncio.wait({listing.refresh}, timeout=PATIENCE_S)
        return listing.models, not self._is_fresh(listing)

    async def stop(self) -> None:
        """Give up what is being asked."""
        for listing in self._lists.values():
            if listing.refresh:
                listing.refresh.cancel()

    def _is_fresh(self, listing: Listing) -> bool:
        return time.time() - listing.asked_at < self._ttl_s

    async def _refresh(self, listing: Listing, search: str, limit: int) -> None:
        try:
            listing.models = await asyncio.to_thread(_ask, search, limit)
            listing.asked_at = time.time()
            if not search:
                await asyncio.to_thread(self._to_disk, listing, limit)
        except Exception as error:  # The library raises what its transport raises; none of it may reach a request.
            listing.failed_at = time.monotonic()
            log.warning("the hub's list of models is not to be had", why=f"{type(error).__name__}: {error}"[:300])
        finally:
            listing.refresh = None

    def _to_disk(self, listing: Listing, limit: int) -> None:
        saved = {"limit": limit, "asked_at": listing.asked_at, "models": [asdict(model) for model in listing.models]}
        fresh = self._path.with_suffix(f".{os.getpid()}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(saved), encoding="utf-8")
            fresh.replace(self._path)
        except OSError as error:
            log.warning("the list of models is not kept", path=str(self._path), why=str(error))

    def _from_disk(self, limit: int) -> Listing:
        try:
            saved = json.loads(self._path.read_text(encoding="utf-8"))
            models = [Listed(**model) for model in saved["models"]]
            # A longer list than was kept must be asked for; until then the kept one is better than none.
            asked_at = saved["asked_at"] if limit <= saved["limit"] else min(saved["asked_at"], 1.0)
            return Listing(models[:limit], asked_at)
        except (OSError, ValueError, KeyError, TypeError):
            return Listing()


def _ask(search: str, limit: int) -> list[Listed]:
    api = HfApi(token=next(filter(None, map(os.environ.get, TOKENS)), None))
    models = api.list_models(
        pipeline_tag=TASK, sort="trending_score", search=search or None, limit=limit, expand=list(PROPERTIES)
    )

    def listed(model: Any) -> Listed:  # noqa: ANN401  # The library's ModelInfo.
        # The list tells no sizes. A model that cannot be looked at is listed without.
        sizes = {file.rfilename: 0 for file in model.siblings or ()}
        try:
            about = api.model_info(model.id, files_metadata=True, timeout=PATIENCE_S)
            sizes = {file.rfilename: file.size or 0 for file in about.siblings or ()}
        except Exception as error:
            log.debug("no sizes of files", model=model.id, why=str(error)[:200])
        config = model.config or {}
        return Listed(_facts(model), str(config.get("model_type", "")), list(config.get("architectures") or ()), sizes)

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(listed, models))


def _facts(model: Any) -> dict[str, Any]:  # noqa: ANN401
    card = model.card_data.to_dict() if model.card_data else {}
    tagged = next((tag.removeprefix("license:") for tag in model.tags or () if tag.startswith("license:")), None)
    languages = card.get("language") or []
    return {
        "id": model.id,
        "pipeline_tag": model.pipeline_tag,
        "likes": model.likes,
        "downloads": model.downloads,
        "tags": list(model.tags or ()),
        "library_name": model.library_name,
        "last_modified": model.last_modified.isoformat() if model.last_modified else None,
        "created_at": model.created_at.isoformat() if model.created_at else None,
        "trending_score": model.trending_score,
        "gated": model.gated or False,
        "license": card.get("license_name") or card.get("license") or tagged,
        "parameters": model.safetensors.total if model.safetensors else None,
        "languages": [languages] if isinstance(languages, str) else list(languages),
    }
