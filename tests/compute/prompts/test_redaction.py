"""Redaction finds personal data by its form, and leaves what only resembles it."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.compute.prompts.redaction import EMAIL, IBAN, PHONE, redact_json, redact_json_text, redact_text

# Public examples of the IBAN registry.
IBANS = [
    "DE89370400440532013000",
    "GB82 WEST 1234 5698 7654 32",
    "FR14 2004 1010 0505 0001 3M02 606",
    "NO93 8601 1117 947",
    "MT84MALT011000012345MTLCAST001S",
    "de89 3704 0044 0532 0130 00",
    "CH93-0076-2011-6238-5295-7",
    "DE89\u202f3704\u202f0044\u202f0532\u202f0130\u202f00",
    "DE89 3704 0044\n0532 0130 00",
    "DE89 3704 0044 \r\n  0532 0130 00",
]
PHONES = [
    "+49 30 1234567",
    "+1 (212) 555-0123",
    "+442071838750",
    "0049 30 1234567",
    "030 1234567",
    "(030) 123 45 67",
    "0171/1234567",
    "01 23 45 67 89",
    "(212) 555-0123",
    "212-555-0123",
    "212.555.0123",
    "1-800-555-0123",
    "1 (800) 555-0123",
    "1 800 555 0123",
    "01711234567",
    "0151 12345678",
    "(0171) 1234567",
    "07911123456",
    "0612345678",
    "030 – 1234567",
    "212–555–0123",
    "+49–30–1234567",
    "+49 (0)30 1234567",
    "(+49) 30 1234567",
    "0171\u20111234567",
    "212 555 1234",
    "1 212 555 1234",
    "+34 612 345 678",
    "+351 912 345 678",
    "+7 912 345-67-89",
    "0049301234567",
    "+49\u202f30\u20091234567",
    "030\u202f1234567",
]
EMAILS = ["ada@example.org", "Ada.Lovelace+x@mail.example.co.uk", "o'neil@example.com", "müller@bücher.example"]
KEPT = [
    "15 minutes late at 09:30 on 2013-04-01",
    "01.02.2024 and 01/02/2024",
    "flight AA 1234 to 10.5 % of 1,234,567 passengers",
    "order 0123456789 and 1234567890123456",
    "-0.12345 and 3.14159265",
    "2013-04-01T12:00:00Z",
    "192.168.100.200",
    "a @ b, @handle, x@y",
    "DE89370400440532013001",  # wrong check digits
    "from 200 300 4000 to 500",
    "delays: 5 10 15 20 25 30",
    "2013–2014, 100–200 flights, 10:30–12:45, 01–02–2024",
    "1 200 300 4000 and 800 300 4000 passengers",
    "+1 500 000 EUR, +1.234.567 EUR, +49 500 000 EUR and +250\u202f000\u202f000 EUR",
    "+12345678 rows",
    "ISBN 0679783261, ISBN-10: 0679783261",
    "SAP document 0012345678",
    "Zeitraum 0930 - 1015 2024",
    "Invoice 2024/0512 334455",
    "icon@2x.png and icon@1.5x.svg",
    "00123456-7890-4123-8123-001234567890",
    "00491234-5678-4123-8123-004930123456",
    "a0049123-0049-4123-8123-004930123456",
]


@pytest.mark.parametrize(("text", "token"), [*((t, IBAN) for t in IBANS), *((t, PHONE) for t in PHONES), *((t, EMAIL) for t in EMAILS)])
def test_personal_data_is_replaced_within_a_sentence(text, token) -> None:
    assert redact_text(f"Please use {text} today, or {text}.") == f"Please use {token} today, or {token}."


@pytest.mark.parametrize("text", KEPT)
def test_other_texts_stay(text) -> None:
    assert redact_text(text) == text


def test_texts_and_names_of_a_json_value_are_redacted() -> None:
    value = {"ada@example.org": [1, None, {"to": "ada@example.org"}], "n": 1.5}
    assert redact_json(value) == {EMAIL: [1, None, {"to": EMAIL}], "n": 1.5}


def test_fields_with_equal_redacted_names_are_all_kept() -> None:
    value = {"ada@example.org": 1, "bob@example.org": 2, "n": {"+49 30 1234567": 3, "+49 30 1234568": 4}}
    once = redact_json(value)
    assert once == {EMAIL: 1, f"{EMAIL} 2": 2, "n": {PHONE: 3, f"{PHONE} 2": 4}}
    assert redact_json(once) == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": "x\n+49 30 1234567"}', '{"a": "x\n[phone number]"}'),
        (
            r'{"a": "x\n+49 30 1234567\tada@example.org\u000a0171 1234567"}',
            r'{"a": "x\n[phone number]\t[e-mail address]\u000a[phone number]"}',
        ),
        (r'"m\u00fcller@example.org, +49\u00a030\u00a01234567"', '"[e-mail address], [phone number]"'),
        (r'{"inner": "{\"a\": \"x\\n+49 30 1234567\"}"}', r'{"inner": "{\"a\": \"x\\n[phone number]\"}"}'),
        (r"\nDE89 3704 0044\n0532 0130 00\r", r"\n[IBAN]\r"),
        (r"\n1234 and \u12 stay", r"\n1234 and \u12 stay"),
    ],
)
def test_an_escape_of_json_is_no_part_of_the_next_word(text, expected) -> None:
    assert redact_text(text) == expected


def test_a_number_that_follows_an_amount_or_another_number_is_found() -> None:
    assert redact_text("+1 500 000 EUR to +1 212 555 1234 2 times") == f"+1 500 000 EUR to {PHONE} 2 times"


def test_a_number_after_a_label_is_a_phone_number() -> None:
    assert redact_text("tel:+493012345678,+493012345679") == f"tel:{PHONE},{PHONE}"


@given(st.text(alphabet="DE89 370400440532013000+-@.ab", max_size=80))
def test_redaction_is_stable(text) -> None:
    once = redact_text(text)
    assert redact_text(once) == once


@given(st.text(alphabet="0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=28, max_size=28), st.sampled_from(["DE", "GB", "NO", "MT"]))
def test_every_number_with_right_length_and_check_digits_is_an_iban(body, country) -> None:
    body = body[: {"DE": 22, "GB": 22, "NO": 15, "MT": 31}[country] - 4]
    digits = "".join(str(int(letter, 36)) for letter in f"{body}{country}00")
    iban = f"{country}{98 - int(digits) % 97:02}{body}"
    redacted = redact_text(f"to {iban} now")
    assert redacted == f"to {IBAN} now"


@pytest.mark.parametrize("airline", ["LH", "AA", "DE", "UA", "GB"])
def test_flight_numbers_and_times_stay(airline) -> None:
    texts = [f"{airline}{number} was late by 20 minutes on day {number} of the year" for number in range(1000, 2000)]
    assert [redact_text(text) for text in texts] == texts
    for text in ("left at 10:00 2026-03-12", "left at 10:00 12.03.2026"):
        assert redact_text(text) == text


@pytest.mark.parametrize(
    "unit", ["a", "0", "a@", "+1 ", "+49 1", "DE89 ", "DE89 \n", "01 23 ", "(", "a.", "212-", "212 ", "\\n", "\\", "0930 - "]
)
def test_long_texts_take_linear_time(unit) -> None:
    began = time.process_time()
    redact_text(unit * (100_000 // len(unit)))
    assert time.process_time() - began < 20


@pytest.mark.parametrize("text", ["Tel-0049 30 1234567", "+372 512 345", "+376 312 345", "+870 773 111 222", "0800-1600 2024"])
def test_a_number_that_resembles_an_amount_or_times_is_replaced(text) -> None:
    assert PHONE in redact_text(text)


def test_many_fields_with_one_redacted_name_take_linear_time() -> None:
    value = {f"user{number}@example.org": number for number in range(30_000)}
    began = time.process_time()
    assert len(redact_json(value)) == len(json.loads(redact_json_text(json.dumps(value)))) == 30_000
    assert time.process_time() - began < 20
