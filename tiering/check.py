"""The audit: index against itself, against flash, and against the backing store.

Promise: finds every row that contradicts another, every extent whose bytes fail their checksum and every cold copy that
is missing, or that a scrub found damaged; changes nothing. Runs beside a live gateway: one snapshot is audited, and while
it is open no region that it refers to is recycled.
Owns nothing. Does not know processes or output. Kind: shell over a View; blocking, any thread.
Spec: docs/OPERATIONS.md, "recall check"; the invariants are those of docs/FORMAT.md.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from tiering import journal, layout
from tiering.backing import keys
from tiering.cold import ColdSide
from tiering.contract import Residency
from tiering.duties.scrub import standing_damages
from tiering.flash import Flash
from tiering.index import Index, View
from tiering.layout import BucketRecord, Counters, Extent, ObjectRecord, PartRecord, RegionRecord, RegionState
from tiering.ports import NotFound

FAULTS_MAX: Final = 1000
"""Faults named in a report; the rest are counted."""


class Report(msgspec.Struct):
    """What one pool's audit found. `faults`: one line each, at most FAULTS_MAX; `fault_count` counts them all.

    `bad_hot`: names of what has damaged bytes on flash, and whether it has a cold copy too. `bad_cold`: of what misses its
    cold copy, and whether it is hot too.
    """

    pool: str
    objects: int = 0
    extents: int = 0
    extent_bytes: int = 0
    cold_copies: int = 0
    fault_count: int = 0
    faults: list[str] = []
    bad_hot: dict[str, bool] = {}
    bad_cold: dict[str, bool] = {}

    def fault(self, text: str) -> None:
        self.fault_count += 1
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(text)

    def lost(self) -> list[str]:
        """The names of what has no good copy left, as far as was looked, all of them."""
        hot, cold = self.bad_hot, self.bad_cold
        return sorted(
            {name for name, has_copy in hot.items() if not has_copy or name in cold}
            | {name for name, has_bytes in cold.items() if not has_bytes or name in hot}
        )


class Copy(NamedTuple):
    """A cold copy that an index relies on. `what`: of what, in words; `name`: of an object's bytes, its name, else ""."""

    what: str
    name: str
    hot: bool


class _Audit:
    def __init__(self, view: View, report: Report) -> None:
        self.view = view
        self.report = report
        self.counters = Counters()
        self.live: dict[int, int] = {}
        self.wanted: dict[str, dict[bytes, bytes]] = {
            name: {}
            for name in (
                "extents",
                "dirty",
                "dirty_parts",
                "manifests",
                "unnoted",
                "chills",
                "expiry",
                "leases",
                "nulls",
                "watched",
                "numbers",
            )
        }
        self.checked: dict[tuple[int, int], tuple[Extent, str]] = {}
        self.cold: dict[str, Copy] = {}
        self.buckets: dict[int, str] = {}

    def run(self) -> None:
        buckets = self.buckets
        for bucket_name, value in self.view.rows("buckets"):
            bucket: BucketRecord = layout.BUCKET.decode(value)
            buckets[bucket.number] = bucket.name
            self.wanted["numbers"][layout.bucket_prefix(bucket.number)] = bucket_name
            if journal.DOCUMENT in bucket.documents:
                self.counters.watched += 1
                self.wanted["watched"][layout.number_key(layout.bucket_prefix(bucket.number))] = bucket_name
        for okey, value in self.view.rows("objects"):
            self._object(okey, layout.OBJECT.decode(value), buckets)
        self._parts()
        for name, rows in self.wanted.items():
            self._compare(name, rows)
        self._regions()
        self._counters()

    def _object(self, okey: bytes, record: ObjectRecord, buckets: dict[int, str]) -> None:
        number, key = layout.split_object_key(okey)
        what = f"object {buckets.get(number, number)}/{key} generation {record.generation}"
        self.report.objects += 1
        if number not in buckets:
            self.report.fault(f"{what}: its bucket does not exist")
        if layout.is_older(okey):
            self._older(what, okey, record)
        elif record.noncurrent_ms:
            self.report.fault(f"{what}: the current version, yet noncurrent")
        if record.marker and record.size:
            self.report.fault(f"{what}: a delete marker with bytes")
        hot, cold = record.residency != Residency.COLD_ONLY, record.residency != Residency.HOT_ONLY
        if hot and sum(extent.length for extent in record.extents) != record.size:
            self.report.fault(f"{what}: extents do not add up to its {record.size} bytes")
        if not hot and record.extents:
            self.report.fault(f"{what}: cold-only, yet it has extents")
        if cold and sum(piece.size for piece in record.cold) != record.size:
            self.report.fault(f"{what}: cold pieces do not add up to its {record.size} bytes")
        if not cold and record.cold:
            self.report.fault(f"{what}: hot-only, yet it has a cold copy")
        if number in buckets:
            for name in layout.cold_names(buckets[number], okey, record)[record.unlisted :]:
                self.cold[name] = Copy(what, self._name(okey, record), hot)
            if record.note and not record.unnoted:
                note = keys.note_key(layout.cold_name(buckets[number], okey, record.version))
                self.cold[note] = Copy(f"{what}, its note", "", hot)
        if record.unnoted:
            self.wanted["unnoted"][layout.u64_key(record.generation)] = okey
        self._extents(what, layout.OWNER_OBJECT + okey, record.extents)
        if layout.is_dirty(record):
            self.wanted["dirty"][layout.u64_key(record.generation)] = self._owed(okey, record)
        if record.unlisted:
            self.wanted["manifests"][layout.u64_key(record.generation)] = okey
        if layout.is_leaving(record):
            self.wanted["chills"][layout.u64_key(record.generation)] = okey
        if record.expires_ms:
            self.wanted["expiry"][layout.time_key(record.expires_ms, record.generation)] = okey
        end = layout.lease_end_ms(record)
        if end:
            self.wanted["leases"][layout.time_key(end, record.generation)] = okey
        counters = self.counters
        counters.generation = max(counters.generation, record.generation)
        counters.objects += 1
        counters.object_bytes += record.size
        counters.hot_bytes += record.size if hot else 0
        counters.dirty_bytes += record.size if layout.is_dirty(record) else 0
        counters.pinned_bytes += record.size if layout.hold_until_ms(record) else 0

    def _owed(self, okey: bytes, record: ObjectRecord) -> bytes:
        """The row in `dirty`, in either of its two forms."""
        by_place = layout.owed_by_place(record)
        found = self.view.get("dirty", layout.u64_key(record.generation))
        return by_place if by_place is not None and found == by_place else okey

    def _name(self, okey: bytes, record: ObjectRecord) -> str:
        number, key = layout.split_object_key(okey)
        version = f" version {record.version}" if record.version else ""
        return f"{self.buckets.get(number, number)}/{key}{version}"

    def name_damaged(self, bad: set[Extent]) -> None:
        """Everything that has one of these extents: several objects may share it."""
        for okey, value in self.view.rows("objects"):
            record: ObjectRecord = layout.OBJECT.decode(value)
            if not bad.isdisjoint(record.extents):
                self.report.bad_hot[self._name(okey, record)] = bool(record.cold)
        for pkey, value in self.view.rows("parts"):
            part: PartRecord = layout.PART.decode(value)
            if not bad.isdisjoint(part.extents):
                upload_id, number = layout.split_part_key(pkey)
                self.report.bad_hot[f"part {number} of upload {upload_id}"] = part.cold is not None

    def _older(self, what: str, okey: bytes, record: ObjectRecord) -> None:
        current = self.view.object(layout.current_key(okey))
        if current is None or current.generation <= record.generation:
            self.report.fault(f"{what}: an older version without a newer one that is current")
        if okey != layout.older_key(layout.current_key(okey), record.generation):
            self.report.fault(f"{what}: an older version under another's key")
        if not record.noncurrent_ms:
            self.report.fault(f"{what}: an older version, yet current")
        if not record.version:
            self.wanted["nulls"][layout.current_key(okey)] = okey

    def _parts(self) -> None:
        uploads = {layout.split_upload_key(ukey)[2] for ukey, _ in self.view.rows("uploads")}
        for pkey, value in self.view.rows("parts"):
            part: PartRecord = layout.PART.decode(value)
            upload_id, number = layout.split_part_key(pkey)
            what = f"part {number} of upload {upload_id}"
            if upload_id not in uploads:
                self.report.fault(f"{what}: its upload does not exist")
            if part.extents and sum(extent.length for extent in part.extents) != part.size:
                self.report.fault(f"{what}: extents do not add up to its {part.size} bytes")
            if not part.extents and part.size and part.cold is None:
                self.report.fault(f"{what}: it is neither hot nor cold")
            if part.cold is not None:
                self.cold[part.cold.name] = Copy(what, what, bool(part.extents))
            self._extents(what, layout.OWNER_PART + pkey, part.extents)
            if layout.is_dirty_part(part):
                self.wanted["dirty_parts"][layout.u64_key(part.generation)] = pkey
            if part.extents:
                self.counters.hot_bytes += part.size
                self.counters.dirty_bytes += 0 if part.cache else part.size

    def _extents(self, what: str, owner: bytes, extents: tuple[Extent, ...]) -> None:
        for extent in extents:
            self.wanted["extents"][layout.extent_key(extent, owner)] = b""
            self.live[extent.region] = self.live.get(extent.region, 0) + extent.length
            known = self.checked.setdefault((extent.region, extent.offset), (extent, what))
            if known[0] != extent:
                self.report.fault(f"region {extent.region} offset {extent.offset}: two extents disagree")

    def _compare(self, name: str, wanted: dict[bytes, bytes]) -> None:
        found = dict(self.view.rows(name))
        for key in found.keys() - wanted.keys():
            self.report.fault(f"{name}: row {key.hex()} belongs to nothing")
        for key in wanted.keys() - found.keys():
            self.report.fault(f"{name}: row {key.hex()} is missing")
        for key in found.keys() & wanted.keys():
            if found[key] != wanted[key]:
                self.report.fault(f"{name}: row {key.hex()} names another object")

    def _regions(self) -> None:
        states: dict[RegionState, set[int]] = {state: set() for state in RegionState}
        sequences = {}
        for key, value in self.view.rows("regions"):
            region, record = layout.unpack_region(key), layout.REGION.decode(value)
            assert isinstance(record, RegionRecord)
            states[record.state].add(region)
            sequences[region] = record.sequence
            live = self.live.pop(region, 0)
            if record.live_bytes != live:
                self.report.fault(f"region {region}: {record.live_bytes} live bytes counted, {live} found")
            if live and record.state in (RegionState.FREE, RegionState.FREED):
                self.report.fault(f"region {region}: free, yet rows refer to it")
        for region in self.live:
            self.report.fault(f"region {region}: referred to, yet unknown")
        queue = {layout.unpack_region(value): layout.unpack_u64(key) for key, value in self.view.rows("queue")}
        lists = (
            ("queue", set(queue), RegionState.SEALED),
            ("free", {layout.unpack_region(key) for key, _ in self.view.rows("free")}, RegionState.FREE),
            ("freed", {layout.unpack_freed_key(key)[1] for key, _ in self.view.rows("freed")}, RegionState.FREED),
        )
        for name, listed, state in lists:
            for region in listed ^ states[state]:
                self.report.fault(f"{name}: region {region} is listed and its state disagree")
        for region, sequence in queue.items():
            if sequences.get(region) != sequence:
                self.report.fault(f"queue: region {region} stands at the wrong place")

    def _counters(self) -> None:
        stored = self.view.counters()
        for name in ("objects", "object_bytes", "hot_bytes", "dirty_bytes", "pinned_bytes", "watched"):
            if getattr(stored, name) != getattr(self.counters, name):
                self.report.fault(
                    f"counter {name}: {getattr(stored, name)} stored, {getattr(self.counters, name)} found"
                )
        if stored.generation < self.counters.generation:
            self.report.fault(f"counter generation: {stored.generation} stored, {self.counters.generation} in use")


def check_pool(name: str, index: Index, flash: Flash | None) -> tuple[Report, dict[str, Copy]]:
    """Audits one pool; `flash` None leaves the bytes unread. Also answers the cold copies it relies on: name → of what."""
    report = Report(name)
    with index.view() as view:
        audit = _Audit(view, report)
        audit.run()
        bad = set()
        for extent, what in audit.checked.values():
            report.extents += 1
            report.extent_bytes += extent.length
            if flash is not None and not flash.passes_aside(extent):
                report.fault(f"{what}: bytes fail their checksum (region {extent.region} offset {extent.offset})")
                bad.add(extent)
        if bad:
            audit.name_damaged(bad)
        for damage in standing_damages(view, ("cold",)):
            report.fault(f"{damage.what}: a scrub has found its cold copy damaged")
            report.bad_cold[damage.what] = any(copy.hot for copy in audit.cold.values() if copy.name == damage.what)
    return report, audit.cold


async def check_cold(report: Report, cold: ColdSide, copies: dict[str, Copy]) -> None:
    """Asks the backing store for every cold copy. Raises BackingUnavailable."""
    for name, copy in copies.items():
        report.cold_copies += 1
        try:
            await cold.backing.stat(name)
        except NotFound:
            report.fault(f"{copy.what}: its cold copy {name} is missing")
            if copy.name:
                report.bad_cold[copy.name] = copy.hot
