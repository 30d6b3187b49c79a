import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicode_rbnf import RbnfEngine

from worker.text.normalise import normalise

LANGUAGES = [*RbnfEngine.get_supported_languages(), "en-US", "en-GB", "nb", "pt-BR", "zh-Hant-TW", "bn", "xx", ""]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        # Numbers
        ("I have 3 apples.", "I have three apples."),
        ("21 is 20 and 1", "twenty-one is twenty and one"),
        ("1,234,567.89", "one million two hundred thirty-four thousand five hundred sixty-seven point eight nine"),
        ("12,34,567", "one million two hundred thirty-four thousand five hundred sixty-seven"),
        ("1 000 000 or 10 000 people", "one million or ten thousand people"),
        ("room 5 100 times", "room five one hundred times"),
        ("3.14 and .5 and 0.50", "three point one four and zero point five and zero point five zero"),
        ("-5 degrees, (−3)", "minus five degrees, (minus three)"),
        ("7 - 3, 5−2", "seven minus three, five minus two"),
        ("007", "zero zero seven"),
        ("12345678901234567890 ", "one two three four five six seven eight nine zero " * 2),
        ("It is 5. Is it 5? (5)", "It is five. Is it five? (five)"),
        ("a 5-year-old", "a five-year-old"),
        ("CO2 and H2O", "CO two and H two O"),
        ("MP3, B2B, COVID-19", "MP three, B two B, COVID-nineteen"),
        ("version 1.2.3, v2.0", "version one point two point three, v two point zero"),
        # Ordinals, fractions, decades
        ("1st 2nd 3rd 4th 21st 112th", "first second third fourth twenty-first one hundred twelfth"),
        ("the 1,000th time", "the one thousandth time"),
        ("1/2, 3/4 and 1 1/2", "one half, three quarters and one and one half"),
        ("2/3", "two thirds"),
        ("24/7", "twenty-four slash seven"),
        ("½ or 2½", "a half or two and a half"),
        ("the 1990s, the '80s", "the nineteen nineties, the eighties"),
        ("wait 30s", "wait thirty seconds"),
        # Years and dates
        ("in 1999, 1905 and 2024", "in nineteen ninety-nine, nineteen oh-five and twenty twenty-four"),
        ("2000 or 2005", "two thousand or two thousand five"),
        ("on 2024-03-15", "on March fifteenth, twenty twenty-four"),
        ("15.03.2024", "March fifteenth, twenty twenty-four"),
        ("3/4/2024", "March fourth, twenty twenty-four"),
        ("13/4/2024", "April thirteenth, twenty twenty-four"),
        ("March 3rd", "March third"),
        ("March 3, 2024", "March third, twenty twenty-four"),
        ("Jan. 5 and Sept 7", "January fifth and September seventh"),
        ("3 March 2024", "the third of March twenty twenty-four"),
        ("the 4th of July", "the fourth of July"),
        ("May 2024", "May twenty twenty-four"),
        # Times
        ("at 3:45 pm", "at three forty-five p m"),
        ("at 3pm or 9 a.m. sharp", "at three p m or nine a m sharp"),
        ("Come at 3 p.m.", "Come at three p m."),
        ("Come at 3 p.m. Bring it.", "Come at three p m. Bring it."),
        ("3:00, 3:05, 15:30", "three o'clock, three oh five, fifteen thirty"),
        ("12:00:01", "twelve o'clock and one second"),
        # Money
        ("It cost $5.20.", "It cost five dollars and twenty cents."),
        ("€3, US$8, £1,000", "three euros, eight US dollars, one thousand pounds"),
        ("$1, $1.01, $0.99, £0.01", "one dollar, one dollar and one cent, ninety-nine cents, one penny"),
        ("$5.5 and $5.00", "five dollars and fifty cents and five dollars"),
        ("$1.2bn or $5.2 million", "one point two billion dollars or five point two million dollars"),
        ("-$5 and $-5", "minus five dollars and minus five dollars"),
        ("100 € or 20 USD or EUR 30", "one hundred euros or twenty US dollars or thirty euros"),
        ("¥500 or ₹20", "five hundred yen or twenty rupees"),
        # Percent and units
        ("5%, 2.5 %", "five percent, two point five percent"),
        ("10 km/h for 1 km", "ten kilometers per hour for one kilometer"),
        ("5kg at 20°C", "five kilograms at twenty degrees Celsius"),
        ("30 m², 4 GB", "thirty square meters, four gigabytes"),
        ("5G and 3D", "five G and three D"),
        # Ranges
        ("He won 2-1.", "He won two to one."),
        ("pages 10–20, 5-10%", "pages ten to twenty, five to ten percent"),
        ("$5-$10", "five dollars to ten dollars"),
        ("9am-5pm, 1990-1999", "nine a m to five p m, nineteen ninety to nineteen ninety-nine"),
        # Telephone
        ("call 555-1234", "call five five five, one two three four"),
        ("(555) 123-4567", "five five five, one two three, four five six seven"),
        ("+44 20 7946 0958", "plus four four, two zero, seven nine four six, zero nine five eight"),
        # Addresses
        ("jane.doe@example.com.", "jane dot doe at example dot com."),
        ("https://www.example.com/a-b?x=1", "www dot example dot com slash a dash b question mark x equals one"),
        ("See example.com, or http://a.org/.", "See example dot com, or a dot org."),
        # Abbreviations
        ("Dr. Smith and Mr. Jones", "Doctor Smith and Mister Jones"),
        ("Mrs Jones, Prof. X", "Missus Jones, Professor X"),
        ("fruit, e.g. apples, i.e. food", "fruit, for example apples, that is food"),
        ("St. Paul on Main St.", "Saint Paul on Main Street."),
        ("apples, pears, etc. Then", "apples, pears, et cetera. Then"),
        ("No. 5, vol. 2, pp. 3-4", "number five, volume two, pages three to four"),
        ("cats vs. dogs", "cats versus dogs"),
        # Signs
        ("R&D, A & B", "R and D, A and B"),
        ("2+2=4", "two plus two equals four"),
        ("C++, A+", "C plus plus, A plus"),
        ("1920x1080, 3 × 4", "nineteen twenty by one thousand eighty, three by four"),
        ("#5, ~5, 3 < 4", "number five, about five, three is less than four"),
    ],
)
def test_english_is_written_out_as_it_is_read(written, read):
    assert normalise(written, "en-US") == read


@pytest.mark.parametrize(
    ("language", "written", "read"),
    [
        ("en-GB", "3/4/2024", "April third, twenty twenty-four"),
        ("de", "Ich habe 21 Äpfel.", "Ich habe einundzwanzig Äpfel."),
        ("de", "1.234,50 €", "eintausendzweihundertvierunddreißig Komma fünf null Euro"),
        ("de", "am 15.03.2024 um 15:30", "am fünfzehn null drei zweitausendvierundzwanzig um fünfzehn dreißig"),
        ("de-DE", "-5 Grad, 3.14, 5 %", "minus fünf Grad, drei Komma eins vier, fünf Prozent"),
        ("fr", "80 pommes, 3,14 %", "quatre-vingts pommes, trois virgule un quatre pour cent"),
        ("fr", "le 1er mai, la 2e fois", "le premier mai, la deuxième fois"),
        ("fr-CH", "70", "septante"),
        ("fr-FR", "1 000 000", "un million"),
        ("es", "3,5 € y el 50 %", "tres coma cinco euros y el cincuenta por ciento"),
        ("es", "1 €, 21 %, la 1ª vez", "un euro, veintiún por ciento, la primera vez"),
        ("it", "123, 1 $, 2 $", "centoventitré, un dollaro, due dollari"),
        ("pt-BR", "16% e 2,5", "dezesseis por cento e dois vírgula cinco"),
        ("nl", "de 3e keer, € 5", "de derde keer, vijf euro"),
        ("ru", "1 %, 2 %, 5 %", "один процент, два процента, пять процентов"),
        ("ru", "3,14 и 25 ₽", "три запятая один четыре и двадцать пять рублей"),
        ("pl", "3,14 i 5 $", "trzy przecinek jeden cztery i pięć dolarów"),
        ("hi", "५ और 10%", "पाँच और दस प्रतिशत"),
        ("zh", "我有3个苹果,3.14", "我有三个苹果,三点一四"),
        ("zh-TW", "205", "二百零五"),
        ("ja", "3個、3.14", "三個、三点一四"),
        ("ko", "3개", "삼개"),
        ("th", "มี 25 คน", "มี ยี่สิบห้า คน"),
        ("ar", "عندي 3", "عندي ثلاثة"),
        ("nb", "12", "tolv"),
        ("sv", "3,5", "tre komma fem"),
        ("tr", "5 ve 3,5", "beş ve üç virgül beş"),
        ("uk", "2,5", "два кома пʼять"),
        ("bn", "৫ 5", "৫ 5"),
        ("xx", "5 %", "5 %"),
    ],
)
def test_other_languages_say_their_numbers(language, written, read):
    assert normalise(written, language) == read


@pytest.mark.parametrize("language", LANGUAGES)
def test_text_with_nothing_to_write_out_stays(language):
    for text in (
        "",
        "Hello, world! It's fine... don't you—think? e-mail (or not)",
        "Straße, naïve\u00adté, Ελληνικά, «привет», हिन्दी, 你好。日本語、한국어 العربية\n\n\ttail  ",
        "emoji 👩‍🚀, a\u0301, \u202eright\u202c, $HOME, half-hearted, U.S. and etc",
    ):
        assert normalise(text, language) == text


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_takes_every_notation(language):
    spoken = normalise(
        "999999999999999 0 -5 3.14 3,14 1.234 1,234 10 000 000 007 15.03.2024 12:30 99999999999999999999 5%", language
    )
    if language not in ("bn", "xx", "", "zu"):
        assert not any(map(str.isdecimal, spoken))


@given(st.text(), st.sampled_from(LANGUAGES))
@settings(deadline=None)
def test_no_text_is_too_strange(text, language):
    normalise(text, language)


notations = st.lists(
    st.sampled_from([*"0123456789.,:/-–+%$€£°½ xmkst'()#~@&=−٣५²", "Dr. ", "St.", "am", "Mar", "US", "://"])
)


@given(notations.map("".join), st.sampled_from(["en-US", "en-GB", "de", "fr", "hi", "zh"]))
@settings(deadline=None, max_examples=400)
def test_no_digit_is_left_or_lost(text, language):
    spoken = normalise(text, language)
    assert not any(map(str.isdecimal, spoken))
    if any(map(str.isdecimal, text)):
        assert any(map(str.isalpha, spoken))


@given(st.text(st.characters(categories=["L", "Mn", "Zs"])), st.sampled_from(LANGUAGES))
@settings(deadline=None)
def test_letters_alone_stay(text, language):
    if not any(title in text for title in ("Dr", "Mr", "Ms", "Prof")):
        assert normalise(text, language) == text


@pytest.mark.parametrize("language", ["en-US", "de"])
def test_long_rows_take_no_time(language):
    """Linear in the length: at quadratic cost this would run for minutes."""
    rows = (
        "9",
        "9.",
        "9,",
        "9-",
        "9 ",
        "$",
        "9$",
        "9/",
        "9:",
        "9x",
        "999,",
        "+9",
        "a.",
        "a@",
        "www.",
        "http://",
        "St.",
    )
    for row in rows:
        assert normalise(row * 5_000, language)
