"""The update section of host.yaml: spellings of windows, and what does not go together."""

from __future__ import annotations

import pytest

from hostctl.config.load import DeclarationError, parse_host
from hostctl.config.values import Window

HEAD = 'version: 1\nhostname: web-1\nupdate:\n  repository: "https://updates.example/"\n'


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Sat 03:00-05:00", "Sat 03:00-05:00"),
        ("saturday 3:00-5:00", "Sat 03:00-05:00"),
        ("Mon..wednesday,sat 22:00+90m", "Mon..Wed,Sat 22:00+1h30m"),
        ("Sun *-*-1..7 04:00-24:00", "Sun *-*-1..7 04:00-24:00"),
        ("*-1,4,7..9-1 04:00-05:00", "*-1,4,7..9-1 04:00-05:00"),
        ("23:00-01:00", "23:00-01:00"),
        ("00:00+7d", "00:00+7d"),
    ],
)
def test_spellings(text: str, canonical: str) -> None:
    assert str(Window(text)) == canonical
    assert Window(canonical).span == Window(text).span


def test_a_range_of_days_may_go_over_sunday() -> None:
    assert Window("Fri..Mon 01:00-02:00").span.weekdays == {4, 5, 6, 0}
    assert Window("Sat..Sat 01:00-02:00").span.weekdays == {5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Caturday 03:00-05:00", "is not a window"),
        ("Sat 03:00", "is not a window"),
        ("Sat  03:00-05:00", "is not a window"),
        ("Sat 03:00-25:00", "24:00"),
        ("Sat 03:60-04:00", "24:00"),
        ("Sat 24:00-01:00", "00:00 is the start"),
        ("Sat 03:00-03:00", "03:00+24h"),
        ("Sat 03:00+8d", "not from 1m to 7d"),
        ("Sat 03:00+30s", "not from 1m to 7d"),
        ("Sat 03:00+5", "is not a window"),
        ("Sat 03:00+5hh", "a time with its unit"),
        ("*-2-30 03:00-04:00", "no day of any year"),
        ("*-13-1 03:00-04:00", "no month from 1 to 12"),
        ("*-*-9..2 03:00-04:00", "no day of a month from 1 to 31"),
    ],
)
def test_what_is_no_window(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        Window(text)
    assert words in str(caught.value)


def test_one_window_or_several() -> None:
    one = parse_host(HEAD + "  strategy: window\n  window: Sat 03:00-05:00\n").update
    several = parse_host(HEAD + "  strategy: window\n  window: [Sat 03:00-05:00, Sun 03:00-05:00]\n").update
    assert one is not None
    assert several is not None
    assert one.windows == ("Sat 03:00-05:00",)
    assert several.windows == ("Sat 03:00-05:00", "Sun 03:00-05:00")


def test_everything_at_once() -> None:
    update = parse_host(
        HEAD
        + "  mirrors: ['http://mirror.example/']\n  proxy: 'http://proxy.example:3128'\n  channel: beta\n"
        + "  strategy: lock\n  lock: {url: 'http://lock.example/', group: db.eu-1}\n  window: Sat 03:00-05:00\n"
        + "  timezone: Europe/Berlin\n  jitter: 1h\n  delay: 2h\n  notice: 10m\n  freeze_after: 30d\n"
    ).update
    assert update is not None
    assert update.lock is not None
    assert (str(update.lock.group), str(update.timezone)) == ("db.eu-1", "Europe/Berlin")
    assert float(update.freeze_after) == 30 * 86400
    assert update.unattended


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("  strategy: window\n", "5:13: update.strategy: window needs a window"),
        ("  strategy: lock\n", "5:13: update.strategy: lock needs a server"),
        ("  window: Sat 03:00-05:00\n", "5:11: update.window: strategy manual does not look at windows"),
        ("  strategy: immediate\n  lock: {url: 'http://l/'}\n", "6:3: update.lock: strategy immediate does not ask"),
        ("  strategy: immediate\n  timezone: UTC\n", "6:13: update.timezone: it is that of windows"),
        ("  mirrors: ['https://updates.example/']\n", "5:13: update.mirrors[0]: this address is given already"),
        ("  mirrors: ['http://a/', 'http://a/']\n", "5:26: update.mirrors[1]: this address is given already"),
        ("  strategy: window\n  window: [Sat 03:00-05:00, Sat 3-5]\n", "6:29: update.window[1]: 'Sat 3-5' is not a"),
        ("  strategy: window\n  window: Sat 3-5\n", "6:11: update.window: 'Sat 3-5' is not a window, as in"),
        ("  strategy: window\n  window: {day: Sat}\n", "6:11: update.window: this is a mapping"),
        ("  strategy: windows\n", "did you mean 'window'?"),
        (
            "  strategy: lock\n  lock: {url: 'http://l/', group: 'a b'}\n",
            "6:35: update.lock.group: 'a b' is not a group",
        ),
    ],
)
def test_what_does_not_go_together(settings: str, said: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        parse_host(HEAD + settings)
    assert said in caught.value.render()
