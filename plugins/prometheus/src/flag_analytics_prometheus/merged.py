"""The numbers of all processes, as a scrape shows them, and the folding of the files of dead ones."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection

import msgspec

from .labels import OTHER, LabelCaps, LabelGate
from .library_files import (
    MOST_RECENT,
    SUMMED,
    Key,
    file_kind,
    parse_key,
    read_regular,
    read_values,
    write_values,
)
from .merging import Totals
from .self_metrics import SelfReport, combine_reports
from .series import MetricNames
from .shared_directory import Owner, SharedDirectory, claimed_by, named_by_pid, pid_lives
from .unique_users import UniqueUsers
from .users_file import read_users, write_users

__all__ = ["AllProcesses"]

_FOLDED = "flag-analytics-folded"
_MAX_REPORT_BYTES = 2**24
_OWNER = re.compile(r"(\d+)-([0-9a-f]{8})-[0-9a-f]+")
"""A process, and the number of one of its files."""


class AllProcesses:
    """Reads the files of all processes but this one; broken and foreign ones are skipped and counted.

    Args:
        directory: The directory that the processes share.
        names: The names of our metrics.
        caps: The most label values our merged metrics may have.
        hash_key: The hash function of unique users.
    """

    def __init__(
        self, directory: SharedDirectory, names: MetricNames, caps: LabelCaps, hash_key: Callable[[str], int]
    ) -> None:
        self._directory = directory
        self._names = names
        self._caps = caps
        self._hash = hash_key
        self._stem = names.evaluations.removesuffix("feature_flag_evaluations")

    def own_name(self, kind: str, suffix: str) -> str:
        """Return a new name for a file of this process."""
        return f"{self._stem}flag_analytics_{kind}_{self._directory.owner}-{secrets.token_hex(2)}.{suffix}"

    def read(self, own: Collection[str]) -> tuple[Totals, dict[str, UniqueUsers]]:
        """Return the values and the users in all files but ``own``."""
        with self._directory.locked() as held:
            if held:
                self._fold()
            names = [name for name in self._directory.names() if name not in own]
            totals, users = Totals(), dict[str, UniqueUsers]()
            for name in names:
                if name.endswith(".db"):
                    self._add_values(totals, name)
            for name in self._ours(names, "users", "sketch"):
                self._add_users(users, name)
        return totals, users

    def read_reports(self, own: str) -> list[SelfReport]:
        """Return the reports in all files but ``own``."""
        names = self._ours(self._directory.names(), "report", "json")
        return [report for name in names if name != own and (report := self._read_report(name)) is not None]

    def fold_if_free(self) -> None:
        """Fold the files of dead processes, unless another process is at it."""
        with self._directory.locked(0.0) as held:
            if held:
                self._fold()

    # Files

    def _add_values(self, totals: Totals, name: str) -> bool:
        """Add a file's values; return whether it is usable."""

        def add() -> None:
            kind = file_kind(name)
            if kind is None:
                raise ValueError("the name is not one of the library's")
            totals.add(*kind, read_values(self._directory.path_of(name)))

        return self._usable(add)

    def _add_users(self, users: dict[str, UniqueUsers], name: str) -> bool:
        return self._usable(lambda: read_users(self._directory.path_of(name), self._hash, users))

    def _read_report(self, name: str) -> SelfReport | None:
        reports: list[SelfReport] = []

        def read() -> None:
            content = read_regular(self._directory.path_of(name), _MAX_REPORT_BYTES)
            reports.append(msgspec.json.decode(content, type=SelfReport))

        if not self._usable(read):
            return None
        owner = self._owner(name, "report", "json")
        return reports[0] if owner is not None and pid_lives(owner.pid) else reports[0].of_the_dead()

    def _usable(self, read: Callable[[], None]) -> bool:
        try:
            read()
        except FileNotFoundError:
            return False  # its process has deleted it since it was listed
        except (OSError, ValueError, msgspec.MsgspecError):
            self._directory.skipped += 1
            return False
        return True

    def _ours(self, names: Collection[str], kind: str, suffix: str) -> list[str]:
        start = f"{self._stem}flag_analytics_{kind}_"
        return [name for name in names if name.startswith(start) and name.endswith(f".{suffix}")]

    def _owner(self, name: str, kind: str, suffix: str) -> Owner | None:
        found = _OWNER.fullmatch(name.removeprefix(f"{self._stem}flag_analytics_{kind}_").removesuffix(f".{suffix}"))
        return None if found is None else Owner(int(found[1]), found[2])

    # Dead processes

    def _fold(self) -> None:
        """Replace the files of dead processes by one of each kind; the caller holds the directory's lock."""
        try:
            self._directory.finish()
            names = self._directory.names()
            dead = self._directory.dead(names)
            if dead or any(claimed_by("") in name for name in names):
                self._fold_files(names, dead)
        except OSError:
            pass  # no space, or no right to delete: the files stay, and count one by one

    def _fold_files(self, names: list[str], dead: list[Owner]) -> None:
        self._directory.discard_drafts()
        left = self._claim(names, dead)
        new: list[str] = []
        gone: list[str] = []
        for kind in (*SUMMED, MOST_RECENT):
            self._fold_values(kind, self._left_behind(left, dead, f"{kind}_flag-analytics-", ".db"), new, gone)
        self._fold_users(self._left_behind(left, dead, f"{self._stem}flag_analytics_users_", ".sketch"), new, gone)
        self._fold_reports(self._left_behind(left, dead, f"{self._stem}flag_analytics_report_", ".json"), new, gone)
        remaining = set(left) - set(gone)
        for owner in dead:
            alive = f"flag_analytics_{owner}.alive"
            if not any(str(owner) in name for name in remaining - {alive}):
                gone.append(alive)
        self._directory.replace(new, gone)

    def _claim(self, names: list[str], dead: list[Owner]) -> list[str]:
        """Return the names with those files renamed that the library named after the ids of dead processes."""
        left = set(names)
        if named_by_pid():
            for owner in dead:
                for kind in SUMMED:
                    name = f"{kind}_{owner.pid}.db"
                    claimed = self._directory.claim(name, kind, owner) if name in left else None
                    if claimed is not None:
                        left.remove(name)
                        left.add(claimed)
        return sorted(left)

    def _left_behind(self, names: Collection[str], dead: Collection[Owner], start: str, end: str) -> list[str]:
        """Return the files of the dead, and those that were folded before, if there is anything new to fold."""
        folded, fresh = list[str](), list[str]()
        owners = {str(owner) for owner in dead}
        for name in names:
            if name.startswith(start) and name.endswith(end):
                owner = name[len(start) : -len(end)]
                if owner.startswith("folded-"):
                    folded.append(name)
                elif owner.startswith("dead-") or owner.rpartition("-")[0] in owners:
                    fresh.append(name)
        return folded + fresh if fresh else []

    def _fold_values(self, kind: str, names: list[str], new: list[str], gone: list[str]) -> None:
        totals = Totals()
        used = [name for name in names if self._add_values(totals, name)]
        if used:
            self.cap(totals)
            name = f"{kind}_flag-analytics-folded-{secrets.token_hex(4)}.db"
            write_values(self._directory.draft(name), totals.by_kind.get(kind, {}))
            new.append(name)
            gone += used

    def _fold_users(self, names: list[str], new: list[str], gone: list[str]) -> None:
        users: dict[str, UniqueUsers] = {}
        used = [name for name in names if self._add_users(users, name)]
        if used:
            name = f"{self._stem}flag_analytics_users_folded-{secrets.token_hex(4)}.sketch"
            write_users(self._directory.draft(name), self.cap_users(users))
            new.append(name)
            gone += used

    def _fold_reports(self, names: list[str], new: list[str], gone: list[str]) -> None:
        reports = {name: report.of_the_dead() for name in names if (report := self._read_report(name)) is not None}
        if reports:
            name = f"{self._stem}flag_analytics_report_folded-{secrets.token_hex(4)}.json"
            self._directory.draft(name).write_bytes(msgspec.json.encode(combine_reports(list(reports.values()))))
            new.append(name)
            gone += reports

    # Caps

    def cap(self, totals: Totals) -> None:
        """Keep the caps of our metrics: each process may have admitted other labels than the rest."""
        metrics = {self._names.evaluations, self._names.duration, self._names.errors}
        ours = [
            (text, key, values)
            for values in totals.by_kind.values()
            for text in values
            if (key := parse_key(text)).metric in metrics
        ]
        gate = LabelGate(self._caps)
        for flag_key in sorted({dict(key.labels).get("flag_key", OTHER) for _, key, _ in ours}):
            gate.admit_flag_key(flag_key)
        for text, key, values in sorted(ours, key=lambda one: one[0]):
            capped = self._capped(gate, key)
            if capped == key:
                continue
            value, _ = values.pop(text)
            if capped is not None:
                before, _ = values.get(capped.text(), (0.0, 0.0))
                values[capped.text()] = (before + value, 0.0)

    def _capped(self, gate: LabelGate, key: Key) -> Key | None:
        """Return the key with labels that are admitted; None for one that has not our labels."""
        labels = dict(key.labels)
        try:
            if key.metric == self._names.evaluations:
                admitted = gate.admit(labels["flag_key"], labels["reason"], labels["variant"])
                labels["flag_key"], labels["reason"], labels["variant"] = admitted
            else:
                labels["flag_key"] = gate.admit_flag_key(labels["flag_key"])
        except KeyError:
            return None
        return key._replace(labels=tuple(sorted(labels.items())))

    def cap_users(self, flags: dict[str, UniqueUsers]) -> dict[str, UniqueUsers]:
        """Return the users of no more flags than there may be, the rest together."""
        kept = set(sorted(flags.keys() - {OTHER})[: self._caps.max_flag_keys])
        for key in flags.keys() - kept - {OTHER}:
            flags.setdefault(OTHER, UniqueUsers(self._hash)).merge(flags.pop(key))
        return flags
