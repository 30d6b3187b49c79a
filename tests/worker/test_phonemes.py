import pytest

from worker.errors import UnspeakableText
from worker.text.espeak import from_misaki
from worker.text.misaki import LANGUAGES, MisakiReader, lacks
from worker.text.phonemes import EnglishReader, cut


@pytest.mark.parametrize(
    ("misaki", "espeak"),
    [
        ("həlˈO wˈɜɹld", "həlˈoʊ wˈɜːld"),
        ("hˈɜɹi", "hˈɜːɹi"),
        ("lˈɛTəɹ", "lˈɛɾɚ"),
        ("əɹˈWnd", "əɹˈaʊnd"),
        ("hˈæpi pˈipᵊl", "hˈæpi pˈiːpəl"),
        ("Idˈiə", "aɪdˈiə"),
        ("nˈɔɹθ fˈɑðəɹ", "nˈɔːɹθ fˈɑːðɚ"),
        ("ʤˈY ʧˈAnʤ", "dʒˈɔɪ tʃˈeɪndʒ"),
        ("ju fˈʊt", "juː fˈʊt"),
    ],
)
def test_american_phonemes_are_written_as_espeak_does(misaki, espeak):
    assert from_misaki(misaki) == espeak


@pytest.mark.parametrize(
    ("misaki", "espeak"), [("həlˈQ ðˈɛː", "həlˈəʊ ðˈeə"), ("bˈɑːθ", "bˈɑːθ"), ("bˈɪə", "bˈɪə"), ("hˈapi", "hˈapi")]
)
def test_british_phonemes_keep_the_length_of_their_vowels(misaki, espeak):
    assert from_misaki(misaki, british=True) == espeak


def test_british_and_american_english_are_read_apart():
    assert EnglishReader().read("bath") != EnglishReader(british=True).read("bath")


def test_phonemes_are_cut_after_clauses_then_at_spaces_then_anywhere():
    assert list(cut("ab cd", 10)) == ["ab cd"]
    assert list(cut("ab, cd ef gh", 8)) == ["ab,", "cd ef gh"]
    assert list(cut("ab cd ef", 6)) == ["ab cd", "ef"]
    assert list(cut("abcdefgh", 3)) == ["abc", "def", "gh"]
    assert list(cut("ab ... !", 3)) == ["ab"]


def test_a_reader_of_another_language_refuses_the_letters_of_others():
    reader = MisakiReader("zh", lambda text: (text.replace("你好", "ni↓xau↓"), None), ("CJK", "DIGIT"))
    reader.check("你好, 2 😀", "zf_xiaobei")
    assert reader.read(" 你好 ") == ["ni↓xau↓"]
    assert reader.read("!") == []
    with pytest.raises(UnspeakableText, match=r"'P'.*'п'"):
        reader.check("你好 P п", "zf_xiaobei")
    with pytest.raises(UnspeakableText, match="nothing to say"):
        reader.check("!", "zf_xiaobei")


def test_english_can_always_be_read_and_what_others_lack_has_a_name():
    assert lacks("en-US") == lacks("en-GB") == ""
    assert {lacks(language) for language in LANGUAGES} <= {"", "misaki[ja]", "misaki[zh]", "misaki[en]"}
