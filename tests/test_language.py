"""The mechanical part of the style guide: phrases that plain technical English does not use."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXTS = [
    *ROOT.glob("*.md"),
    *(path for path in (ROOT / "docs").rglob("*.md") if not {"_build", "api", "tables"} & set(path.parts)),
    *(ROOT / "geovq_jax").rglob("*.py"),
    *(ROOT / "notebooks").glob("*.py"),
    *(ROOT / "examples").rglob("*.py"),
]
UNITS = (
    "bits|nats|bytes|rows?|lines?|images|latents|samples|tangents|vectors|linearisation|searches|products|codes|once"
)
PER = (
    "code|image|cell|class|node|latent|pixel|dimension|row|step|sweep|batch|core|device|second|thread|query|seed|trial"
)
PHRASES = {
    "'a' for 'per'": rf"\b(?:{UNITS}) an? (?:{PER})\b(?! of)",
    "'mend' in a message": r"\bmend(?:ed)?: (?!str\b)|how to mend|to mend it",
    "personification": r"\bknows? (?:no|nothing)\b|\basks? nothing\b|\ba killed one\b|\bremembers that\b",
    "'of one's own'": r"\bof one's own\b",
    "renamed terms": r"\bhealth of (?:the )?codes?\b|\bwalk of the data\b|\bcells of a comparison\b|\bevery rung\b",
    "'the same bits'": r"\b(?:in|to) the same bits\b",
}


def test_no_phrase_of_the_list():
    assert len(TEXTS) > 150
    found = []
    for path in TEXTS:
        lines = [re.sub(r"^\s*#+ ", "", line) for line in path.read_text().splitlines()]
        text = re.sub(r"\s+", " ", " ".join(lines))
        for name, pattern in PHRASES.items():
            found += [f"{path.relative_to(ROOT)}: {name}: {match[0]}" for match in re.finditer(pattern, text)]
    assert found == []


def test_the_patterns_find_what_they_should():
    bad = ["128 bits a code", "one row a class", "once a step", "it knows no model", "mend: rerun", "code of one's own"]
    assert all(any(re.search(pattern, text) for pattern in PHRASES.values()) for text in bad)
    good = ["bits per code", "rows of a batch", "the codes a class of images has", "once a stage has finished"]
    assert not any(re.search(pattern, text) for pattern in PHRASES.values() for text in good)
