import pytest

from worker.text.english import respell


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("It cost 100 €.", "It cost €100."),
        ("It cost 5£ then 6 $ now.", "It cost £5 then $6 now."),
        ("€3.50 and $1,234.56", "€3.50 and $1,234.56"),
        ("$5.5 each", "$5.50 each"),
        ("$5.5 million", "$5.5 million"),
        ("£1.2bn", "£1.2 billion"),
        ("$1.2.3", "$1.2.3"),
        ("no € left", "no  euro sign  left"),
        ("−12 degrees", "-12 degrees"),
        ("the angle β", "the angle  beta "),
        ("Σωκράτης", "Σωκράτης"),
        ("room 5 is free", "room 5 is free"),
        ("Write to john.smith@example.com.", "Write to john dot smith@example dot com."),
        ("Version 2.0.1 of v3. It is 3.14, e.g. here.", "Version 2 point 0 point 1 of v3. It is 3.14, e.g. here."),
        ("It ends.Next at 9 a.m. in the U.S.", "It ends.Next at 9 a.m. in the U.S."),
    ],
)
def test_what_is_read_differently_is_respelled_and_the_rest_stays(written, read):
    assert respell(written) == read


def test_long_rows_of_digits_and_signs_take_no_time():
    """Linear in the length: at quadratic cost this would run for minutes."""
    for row in ("9" * 500_000, "$" * 500_000, "9$" * 250_000, "9." * 250_000, " " * 500_000 + "x"):
        assert len(respell(row)) >= len(row)
