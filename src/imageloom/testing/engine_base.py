"""The common base of the suites for engines: the tested engine and the fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from msgspec.structs import replace

from imageloom.driver import window
from imageloom.engines import Engine, Settings, open_engine
from imageloom.records.events import Event
from imageloom.records.ledger import Ledger


class EngineBase:
    """The tested engine, and the fixtures of its tests."""

    engine: ClassVar[str]
    """Registered name of the engine."""
    settings: ClassVar[Settings] = Settings(jobs=2)

    def open_engine(self, **changes: Any) -> Engine:
        """Open the engine, with changes to the suite's settings."""
        return open_engine(self.engine, replace(self.settings, **changes))

    @pytest.fixture
    def opened(self) -> Iterator[Engine]:
        engine = self.open_engine()
        yield engine
        engine.close()

    @pytest.fixture
    def sink(self, tmp_path: Path) -> Path:
        return tmp_path / "out"

    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Iterator[Ledger]:
        with Ledger(tmp_path / "ledger.db") as ledger:
            yield ledger

    @pytest.fixture(autouse=True)
    def _small_batches_and_short_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tasks of two items, so that a dozen items are several tasks."""
        monkeypatch.setattr("imageloom.recipes.plan.BATCH_ITEMS", 2)
        monkeypatch.setattr(window, "FIRST_PAUSE", 0.01)

    @pytest.fixture
    def events(self) -> list[Event]:
        return []
