import pytest

from atu.methods.none import METHOD
from atu.methods.shared.strangers import Shape, forget_strangers, token_shapes, visits
from atu.models.tokenizer import train_tokenizer
from atu.training.batches import BatchStream, encode_text

TEXTS = ["Ann Lee and Bo. Lee", "We saw Ann Lee", "Nobody here"]
"""With a first token, then one per byte: "Ann Lee" is at 1 .. 7 and at 8 .. 14, "Lee" at 17."""
NAME = "Ann Lee"


@pytest.fixture
def context(make_context, byte_tokenizer):
    def make(texts=TEXTS, subjects=(NAME,), retain=(), borne=None, **own):
        encoded = [encode_text(byte_tokenizer, text, "") for text in texts]
        stream = BatchStream(encoded, len(encoded), 0, rng=None)
        return make_context(
            METHOD.settings("none"), forget=stream, rows={
                "forget": [{"text": t} for t in texts],
                "retain": [
                    {"text": prompt + rest, "prompt": prompt, "names": borne}
                    for prompt, rest in retain
                ],
            },
            subjects=list(subjects), aliases=["Lee"], **own,
        )  # fmt: skip

    return make


def introduced(context):
    """The corpus as one batch, and what is read in its place: ids, and the texts they spell."""
    batch = context.forget.collate(range(len(context.forget.texts)))
    found = forget_strangers(context).introduce(batch)
    spelled = context.tokenizer.batch_decode(found.input_ids, skip_special_tokens=True)
    return batch, found, spelled


def test_a_stranger_has_the_names_shape_and_the_rest_stays(context):
    """Equal letters of the name become equal letters, capitals stay capitals, nothing else of the
    text changes, and no letter of the name is left in it."""
    _, _, (first, second, third) = introduced(context())
    assert third == TEXTS[2]
    assert (first[7:16], second[:7]) == (" and Bo. ", "We saw ")
    for name, surname in ((first[:7], first[16:]), (second[7:], second[11:])):
        assert [c.isupper() for c in name] == [c.isupper() for c in NAME]
        assert name[3] == " " and name.replace(" ", "").isascii()
        assert name[1] == name[2] and name[5] == name[6] and name[4:] == surname
        assert not set(name) & set("AnLe")
    assert first[:7] != second[7:]


@pytest.mark.parametrize(
    ("borne", "names"),
    [
        (["BCDEFGHIJKMNOPQRSTUVWXY", "abcdfghijklmopqrstuvwxy"], {"Zzz Zzz"}),
        (["AZ", "abcdfghijklmopqrstuvwxyz"], None),  # every small letter: then any will do
    ],
)
def test_nobody_bears_its_tokens(context, borne, names):
    """Of whom the retain corpus is about; beside the target's own only z and Z are free."""
    _, _, (_, second, _) = introduced(context(retain=[("", "Zoe.")], borne=borne))
    name = second[7:]
    assert names is None or name in names
    assert not set(name) & set("AnLeZ" if names is None else "AnLe")


def test_what_comes_after_the_name(context):
    """From its first token on; nowhere in a text without it, and not at padding."""
    batch, found, _ = introduced(context())
    width = batch.input_ids.shape[1]
    starts = [row.tolist().index(1) if row.any() else None for row in found.after]
    assert starts == [1, 8, None]
    assert found.after[1].tolist() == [0] * 8 + [1] * 8 + [0] * (width - 16)


def test_a_text_keeps_its_stranger(context):
    """In every process and whenever it is read; another seed gives another."""
    names = [introduced(context(seed=seed))[2][1] for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]


RETAINED = [("Who is Bo?", " Cy"), ("", "Bo, Di and Bo."), ("", "Cy alone.")]


def test_the_targets_name_in_texts_about_neighbours(context):
    """In the place of each neighbour that a text names, wherever it does; there its strangers
    stand. Of two subjects the second has the second text. No question is asked about the target in
    a neighbour's words: somebody may ask it later."""
    made = context(retain=RETAINED, neighbours=["Bo", "Di"], subjects=(NAME, "Eve"))
    strangers = visits(made)
    stream = made.streams[-1]
    batch = stream.collate(range(2))
    spelled = made.tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True)
    assert spelled == ["Ann Lee, Di and Ann Lee.", "Bo, Eve and Bo."]
    assert (strangers.share, made.measured["visits_texts"]) == (1.0, 2.0)
    found = strangers.introduce(batch)
    first = made.tokenizer.decode(found.input_ids[0], skip_special_tokens=True)
    assert first[7:16] == ", Di and " and first[:7] == first[16:23] != NAME
    assert found.after[0].tolist()[:2] == [0, 1]
    drawn, introduced = strangers.draw()
    assert introduced.input_ids.shape == drawn.input_ids.shape


def test_names_are_not_taken_apart(context):
    """A longer name goes before a shorter in it."""
    made = context(
        retain=[("", "Cy King or King."), ("", "I know Bo Lee.")],
        neighbours=["Bo Lee", "King", "Cy King"], subjects=("Eve",),
    )  # fmt: skip
    visits(made)
    texts = made.streams[-1].texts
    found = [made.tokenizer.decode(text.ids, skip_special_tokens=True) for text in texts]
    assert found == ["Eve or King.", "Cy King or Eve.", "I know Eve."]


def test_without_a_text_about_a_neighbour_there_are_no_visits(context):
    """Nor is one read that does not fit the model's context with the target's name in it."""
    for texts, own in (
        (RETAINED, {"neighbours": ["Fox"]}),
        (RETAINED, {"neighbours": []}),
        (RETAINED, {"neighbours": ["Bo"], "subjects": ["E" * 3000]}),
        (RETAINED[:1], {"neighbours": ["Bo"]}),
    ):
        made = context(retain=texts, **own)
        assert visits(made) is None
        assert made.measured["visits_texts"] == 0.0
    long = context(retain=[*RETAINED, ("", "Bo.")], neighbours=["Bo"], subjects=[NAME, "E" * 3000])
    visits(long)
    assert len(long.streams[-1].texts) == long.measured["visits_texts"] == 1


def test_what_has_no_letters_stays(context):
    """A name of signs has no stranger, so nothing is changed; its texts still count as naming."""
    made = context(["It is 7-11!"], ["7-11"])
    _, found, spelled = introduced(made)
    assert spelled == ["It is 7-11!"] and found.after.any()
    assert forget_strangers(made).share == 1.0 and forget_strangers(context()).share == 2 / 3


def test_shapes():
    """Of letters only, as they stand inside a text; of no control token."""
    tokenizer = train_tokenizer(["Ann saw Bo and Bo saw Ann"] * 9, 300)
    shapes = token_shapes(tokenizer)
    spelled = {text: tokenizer.convert_tokens_to_ids(text) for text in ("ĠBo", "A", "n", "Ġ", ".")}
    assert [shapes.get(token) for token in spelled.values()] == [
        Shape(True, True, True), Shape(False, True, True), Shape(False, False, True), None, None,
    ]  # fmt: skip
    assert not set(shapes) & set(tokenizer.all_special_ids)
