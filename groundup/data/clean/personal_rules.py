"""What personal data looks like: a pattern for each kind, and a check that what it matches is valid.

Patterns and checks prefer to miss some over taking other numbers for personal data.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Rule:
    """`end`: where the personal data that begins at the match's start ends, 0 if it is none."""

    pattern: re.Pattern[bytes]
    end: Callable[[re.Match[bytes]], int]
    placeholder: bytes


def _email(match: re.Match[bytes]) -> int:
    return match.end()


# RFC 4291, section 2.4, as IANA has assigned it.
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


def _ip(match: re.Match[bytes]) -> int:
    """Public addresses of one host only: private, loopback, documentation and other reserved ones tell of nobody."""
    try:
        address = ipaddress.ip_address(match[0].decode())
    except ValueError:
        return 0
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return 0
    return match.end() if address.is_global and not address.is_multicast else 0


def _phone(match: re.Match[bytes]) -> int:
    """International numbers (E.164) have 8 to 15 digits, 10 or more of them where nothing separates them."""
    text = match[0]
    if text[0] != ord("+"):
        digits = len(re.findall(rb"\d", text))
        return 0 if text[0] == ord("0") and digits not in (10, 11, 12) else match.end()
    groups = re.findall(rb"\d+", text)
    digits = sum(map(len, groups))
    decimal = len(groups) == 2 and b"." in text
    return match.end() if len(groups) <= 6 and digits >= (8 if len(groups) > 1 else 10) and not decimal else 0


def luhn(digits: bytes) -> bool:
    """Does the last digit check the others (ISO/IEC 7812-1, annex B)?"""
    total = 0
    for place, byte in enumerate(reversed(digits)):
        digit = (byte - 48) * (1 + place % 2)
        total += digit - 9 if digit > 9 else digit
    return total % 10 == 0


# By range of the first four digits: lengths of the issuer's numbers (ISO/IEC 7812 ranges as the networks publish them).
_ISSUERS = (
    (range(4000, 5000), (13, 16, 19)),  # Visa
    (range(5100, 5600), (16,)),  # Mastercard
    (range(2221, 2721), (16,)),  # Mastercard
    (range(3400, 3500), (15,)),  # American Express
    (range(3700, 3800), (15,)),  # American Express
    (range(3000, 3060), (14,)),  # Diners Club
    (range(3600, 3700), (14,)),  # Diners Club
    (range(3800, 3900), (14,)),  # Diners Club
    (range(3528, 3590), (16, 17, 18, 19)),  # JCB
    (range(6011, 6012), (16, 17, 18, 19)),  # Discover
    (range(6440, 6600), (16, 17, 18, 19)),  # Discover
    (range(6200, 6300), (16, 17, 18, 19)),  # UnionPay
)


def _card(match: re.Match[bytes]) -> int:
    digits = match[0].replace(b" ", b"").replace(b"-", b"")
    first = int(digits[:4])
    issued = any(first in numbers and len(digits) in lengths for numbers, lengths in _ISSUERS)
    return match.end() if issued and luhn(digits) else 0


def _ssn(match: re.Match[bytes]) -> int:
    """Numbers that the US Social Security Administration gives out: no area 000, 666 or 900 and above, no group 00,
    no serial 0000 (20 CFR 422.103; "Social Security Number Randomization", 2011)."""
    area, group, serial = match[0].split(b"-")
    given = area not in (b"000", b"666") and area < b"900" and group != b"00" and serial != b"0000"
    return match.end() if given else 0


_PROVINCES = {
    *range(11, 16),
    21,
    22,
    23,
    *range(31, 38),
    *range(41, 47),
    *range(50, 55),
    *range(61, 66),
    71,
    81,
    82,
    83,
}
_EARLIEST = 1900


def _resident_id(match: re.Match[bytes]) -> int:
    """Chinese resident identity numbers (GB 11643-1999): province, date of birth, check by ISO 7064 MOD 11-2."""
    text = match[0].upper()
    if int(text[:2]) not in _PROVINCES or int(text[6:10]) < _EARLIEST:
        return 0
    try:
        date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return 0
    total = sum((byte - 48) * pow(2, 17 - place, 11) for place, byte in enumerate(text[:17]))
    return match.end() if b"10X98765432"[total % 11] == text[17] else 0


# Length of an IBAN by country (ISO 13616 registry of SWIFT).
_IBAN = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FO", "GL", "NL", "SD", "FK"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "XK", "MN"), 20),
    **dict.fromkeys(("CH", "CR", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "TL", "OM", "SO"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("BI", "DJ", "FR", "GR", "IT", "MC", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HN", "HU", "LB", "NI", "PL", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU", "YE"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
    **dict.fromkeys(("RU",), 33),
}


def _iban(match: re.Match[bytes]) -> int:
    """International bank account numbers (ISO 13616): the country's length, the remainder by 97, and spaces either
    after each fourth character or nowhere."""
    text = match[0]
    length = _IBAN.get(text[:2].decode(), 0)
    spaced = text[4:5] == b" "
    size = length + (length - 1) // 4 if spaced else length
    shown = text[:size]
    plain = shown.replace(b" ", b"")
    if not length or len(plain) != length or (spaced and b" ".join(_quads(plain)) != shown):
        return 0
    end = match.start() + size
    if bytes(match.string[end : end + 1]).isalnum():
        return 0
    number = "".join(str(int(chr(byte), 36)) for byte in plain[4:] + plain[:4])
    return end if int(number) % 97 == 1 else 0


def _quads(text: bytes) -> list[bytes]:
    return [text[at : at + 4] for at in range(0, len(text), 4)]


_EMAIL = rb"(?<![A-Za-z0-9])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}"
_EMAIL += rb"[A-Za-z]{2,24}(?![A-Za-z0-9])"
_IPS = rb"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]))"
_AFTER = rb"(?!\w|[.-]\d)"
_PHONE = (
    # E.164, as E.123 writes it.
    rb"(?<![\w+])\+[1-9](?:[ .()-]{0,2}\d){7,14}" + _AFTER,
    # North America: (212) 555-0123, 212-555-0123, 212.555.0123, each perhaps after 1.
    rb"(?<![\w.+-])(?:1[ .-])?\([2-9]\d\d\) ?[2-9]\d\d[ .-]\d{4}" + _AFTER,
    rb"(?<![\w.+(-])(?:1[.-])?[2-9]\d\d([.-])[2-9]\d\d\1\d{4}" + _AFTER,
    # China: mobile numbers with or without separators, and landlines.
    rb"(?<![\w.+(/=#-])1[3-9]\d(?:\d{8}|([ -])\d{4}\2\d{4})" + _AFTER,
    rb"(?<![\w.+(-])0\d{2,3}-\d{7,8}" + _AFTER,
    # Elsewhere: 0 for the trunk, then three groups in all.
    rb"(?<![\w.+(-])0\d{2,4}([ -])\d{3,4}\3\d{3,4}" + _AFTER,
)
_CARD = rb"(?<![\w.+-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{4,5})" + _AFTER

# In the order in which kinds claim a place that several of them match.
RULES = {
    "email": Rule(re.compile(_EMAIL), _email, b"[EMAIL]"),
    "iban": Rule(re.compile(rb"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}"), _iban, b"[IBAN]"),
    "resident_id": Rule(re.compile(rb"(?<![\w.+-])[1-9]\d{16}[\dXx](?!\w)"), _resident_id, b"[RESIDENT_ID]"),
    "card": Rule(re.compile(_CARD), _card, b"[CARD]"),
    "ssn": Rule(re.compile(rb"(?<![\w.+-])\d{3}-\d\d-\d{4}" + _AFTER), _ssn, b"[SSN]"),
    "ip": Rule(re.compile(_IPS), _ip, b"[IP]"),
    "phone": Rule(re.compile(b"|".join(_PHONE)), _phone, b"[PHONE]"),
}
KINDS = tuple(RULES)
