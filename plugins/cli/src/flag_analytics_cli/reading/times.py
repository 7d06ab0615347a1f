"""Times as files have them: ISO 8601, numbers since 1970, a format that is given, serial days of a spreadsheet."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..file_errors import FileError
from .fields import FieldError

__all__ = ["EXCEL", "TimeReader", "parse_time", "parse_zone"]

EXCEL = "excel"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_TIME = datetime(2000, 1, 1, tzinfo=UTC)
_SPREADSHEET_EPOCH = datetime(1899, 12, 30)  # noqa: DTZ001  a spreadsheet's days have no zone
_NO_TIME = (
    "timestamp is neither ISO 8601 nor a number of seconds since 1970: describe it with --timestamp-format, "
    "or give the time of all with --timestamp"
)
_NO_ORDER = (
    "timestamp has day and month in an order that the file does not tell: give it, for example with "
    "--timestamp-format '%d/%m/%Y %H:%M'"
)
_HALF_DAY = "timestamp ends in AM or PM: describe it, for example with --timestamp-format '%Y-%m-%d %I:%M:%S %p'"
_ABBREVIATION = (
    "timestamp ends in the abbreviation of a time zone, which several zones share: describe it with "
    "--timestamp-format, and name the zone with --timezone"
)
_SERIAL = (
    "timestamp is a number around 46,000, as a spreadsheet counts days: read it with --timestamp-format excel, "
    "or save the column as text"
)
_SMALL = "timestamp is a number that is no time between 2000 and tomorrow: give the time of all with --timestamp"
_OUT_OF_RANGE = "timestamp is out of range"
_DAY_AND_MONTH = re.compile(r"\d{1,2}([/.-])\d{1,2}\1\d{2,4}\b.*", re.ASCII | re.DOTALL)
_ENDING = re.compile(r"\d{4}-\d\d-\d\d.*?\s*(?P<end>[A-Za-z]{2,5})", re.ASCII | re.DOTALL)
_NUMBER = re.compile(r"-?\d+([.,]\d+)?([eE][+-]?\d+)?", re.ASCII)


def parse_zone(name: str) -> tzinfo:
    """Return the time zone of this IANA name.

    Raises:
        ValueError: there is none.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone: expected for example Europe/Berlin or UTC") from None


def parse_time(text: str, zone: tzinfo = UTC) -> datetime:
    """Return the UTC time of an ISO 8601 text; without a zone it is in ``zone``.

    Raises:
        ValueError: the text is no such time.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
        return (moment.replace(tzinfo=zone) if moment.tzinfo is None else moment).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time: expected for example 2026-01-05 or 2026-01-05T08:00:00Z") from None


class TimeReader:
    """Reads the times of one file.

    Args:
        zone: The zone of times that name none.
        form: A format of ``strptime``, or ``excel`` for the serial days of a spreadsheet; None for the usual forms.
        fixed: The time of every event, in place of the file's times.

    Attributes:
        naive_future: How many times that name no zone are later than now, and so perhaps in another zone.
    """

    def __init__(self, zone: tzinfo = UTC, form: str | None = None, fixed: datetime | None = None) -> None:
        self.naive_future = 0
        self.fixed = fixed
        self._zone = zone
        self._form = form
        self._now = datetime.now(UTC)
        self._last_time = self._now + timedelta(days=1)
        if form not in {None, EXCEL}:
            _check_format(str(form))

    def read(self, value: Any) -> datetime:
        """Return the UTC time of a value of a file.

        A number is taken for seconds, milliseconds, microseconds or nanoseconds by its size, and must lie between the
        year 2000 and tomorrow.

        Raises:
            FieldError: it is no time, or it is ambiguous.
        """
        if self.fixed is not None:
            return self.fixed
        if value.__class__ is str:
            # A dash after four digits is ISO 8601, and by far the most frequent form.
            if self._form is None and value[4:5] == "-":
                try:
                    moment = datetime.fromisoformat(value)
                except ValueError:
                    pass  # it may be in spaces, or end in a zone's name
                else:
                    return self._utc(moment)
            return self._from_text(value.strip())
        if value.__class__ is int and self._form is None:
            return self._from_number(value)
        if isinstance(value, datetime):
            return self._utc(value)
        if isinstance(value, date):
            return self._utc(datetime(value.year, value.month, value.day))  # noqa: DTZ001  it gets the file's zone
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._from_serial(value) if self._form == EXCEL else self._from_number(value)
        raise FieldError(_NO_TIME)

    def _utc(self, moment: datetime) -> datetime:
        try:
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
            moment = moment.replace(tzinfo=self._zone).astimezone(UTC)
        except (OverflowError, ValueError):
            raise FieldError(_OUT_OF_RANGE) from None
        if moment > self._now:
            self.naive_future += 1
        return moment

    def _from_text(self, text: str) -> datetime:
        if self._form is not None:
            return self._from_format(text, self._form)
        if _NUMBER.fullmatch(text):
            return self._from_digits(text)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            pass
        else:
            return self._utc(moment)
        if _DAY_AND_MONTH.fullmatch(text):
            raise FieldError(_NO_ORDER)
        ending = _ENDING.fullmatch(text)
        if ending is None:
            raise FieldError(_NO_TIME)
        name = ending["end"].upper()
        if name not in {"UTC", "GMT"}:
            raise FieldError(_HALF_DAY if name in {"AM", "PM"} else _ABBREVIATION)
        try:
            return datetime.fromisoformat(text[: ending.start("end")].rstrip()).replace(tzinfo=UTC)
        except ValueError:
            raise FieldError(_NO_TIME) from None

    def _from_digits(self, text: str) -> datetime:
        if len(text) == 8 and text.isdigit():
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                pass  # eight digits that are no day may still be a number
            else:
                return self._utc(moment)
        is_whole = text.removeprefix("-").isdigit() and len(text) <= 30
        return self._from_number(int(text) if is_whole else float(text.replace(",", ".")))

    def _from_number(self, number: float) -> datetime:
        if not math.isfinite(number):
            raise FieldError(_OUT_OF_RANGE)
        per_second, limit = 1, 1e11
        while (number >= limit or -number >= limit) and per_second < 1_000_000_000:
            per_second *= 1_000
            limit *= 1_000
        try:
            # Whole numbers stay whole: a float of microseconds has not digits enough.
            if isinstance(number, int) or number.is_integer():
                moment = _EPOCH + timedelta(microseconds=int(number) * 1_000_000 // per_second)
            else:
                moment = _EPOCH + timedelta(seconds=number / per_second)
        except OverflowError:
            raise FieldError(_OUT_OF_RANGE) from None
        if _FIRST_TIME <= moment <= self._last_time:
            return moment
        first, last = (_serial_of(limit) for limit in (_FIRST_TIME, self._last_time))
        raise FieldError(_SERIAL if first <= number <= last else _SMALL)

    def _from_format(self, text: str, form: str) -> datetime:
        try:
            days = float(text.replace(",", ".")) if form == EXCEL else None
            moment = None if form == EXCEL else datetime.strptime(text, form)  # noqa: DTZ007  it gets the file's zone
        except ValueError:
            raise FieldError(f"timestamp does not have the form of --timestamp-format {form!r}") from None
        if days is not None:
            return self._from_serial(days)
        assert moment is not None
        return self._utc(moment)

    def _from_serial(self, days: float) -> datetime:
        if not math.isfinite(days) or not 1 <= days < 2_958_466:
            raise FieldError(_OUT_OF_RANGE)
        # A serial has about eight decimals: one millisecond.
        return self._utc(_SPREADSHEET_EPOCH + timedelta(milliseconds=round(days * 86_400_000)))


def _serial_of(moment: datetime) -> float:
    return (moment.replace(tzinfo=None) - _SPREADSHEET_EPOCH) / timedelta(days=1)


def _check_format(form: str) -> None:
    probe = datetime(2026, 1, 5, 8, 30, 15, tzinfo=UTC)
    try:
        datetime.strptime(probe.strftime(form), form)  # noqa: DTZ007  only its form is of interest
    except ValueError:
        raise FileError(
            f"--timestamp-format {form!r} is not understood: expected for example '%d/%m/%Y %H:%M', or excel"
        ) from None
