import pytest

from atu.untrusted.targets import Target, folded, steps, target_slug


@pytest.mark.parametrize(
    ("target", "label", "slug"),
    [
        (Target(("Ann Lee",)), "Ann Lee", "Ann_Lee"),
        (Target(("Ann Lee", "Bo")), "Ann Lee + Bo", "Ann_Lee+Bo"),
        (Target(("Bo",), ("Ann Lee",)), "Ann Lee, then Bo", "Ann_Lee.then.Bo"),
        (Target(("Cy",), ("Ann", "Bo")), "Ann, then Bo, then Cy", "Ann.then.Bo.then.Cy"),
    ],
)
def test_labels_and_folder_names(target, label, slug):
    assert (target.label, target.slug) == (label, slug)


def test_a_sequence_grows_by_one_name():
    """Each request is about one name, on a model that has met all before."""
    first, second, third = steps(["A", "B", "C"])
    assert [t.new for t in (first, second, third)] == [("A",), ("B",), ("C",)]
    assert [t.names for t in (first, second, third)] == [("A",), ("A", "B"), ("A", "B", "C")]
    assert (first.before, second.before, third.before) == (None, first, second)


def test_the_first_request_of_a_sequence_is_the_single_one():
    """So that a grid with both runs it once."""
    assert next(steps(["A", "B"])) == Target(("A",))


@pytest.mark.parametrize(
    ("name", "slug"),
    [("Prince Harry, Duke", "Prince_Harry__Duke"), ("Émile", "Émile"), ("E\u0301mile", "Émile"),
     ("\u092e\u094b\u0926\u0940", "\u092e\u094b\u0926\u0940"), ("a\u202eb\u2028c", "a_b_c")],
)  # fmt: skip
def test_slugs(name, slug):
    assert target_slug(name) == slug


@pytest.mark.parametrize(
    "name",
    ["", " A", "a/b", "..", ".x", "shared", "Oracle", "A.then.B", "a\\b", "a\0b", "ＯＲＡＣＬＥ"],
)
def test_names_that_no_folder_can_have(name):
    with pytest.raises(ValueError, match=r"empty|separator|reserved|separates"):
        target_slug(name)


def test_no_two_requests_share_a_folder():
    """`+` and `.then.` cannot come from a name: the one is replaced, the other refused."""
    assert target_slug("A+B") == "A_B"
    names = ["A", "B", "A+B"]
    made = [Target((n,)) for n in names] + [Target(("A", "B")), Target(("B",), ("A",))]
    assert len({t.slug for t in made}) == len(made)


@pytest.mark.parametrize("name", ["x" * 201, "é" * 101])
def test_a_name_that_no_file_system_holds(name):
    """It is bytes that count."""
    with pytest.raises(ValueError, match=r"folder name of 20[12] bytes, 200 fit"):
        target_slug(name)
    assert target_slug(name[:-1]) == name[:-1]


def test_a_folder_name_has_nothing_that_a_shell_or_a_terminal_obeys():
    assert target_slug("a'b\"c$(d)`e`;f&g|h<i>{j}*k?l\u202em\u2028n") == (
        "a_b_c__d__e__f_g_h_i__j__k_l_m_n"
    )


def test_names_that_some_file_system_takes_for_one():
    """Upper and lower case, a full-width letter, a letter composed in two ways."""
    assert folded(target_slug("Ａnn")) == folded(target_slug("ANN")) != folded("An")
    assert folded("\u00e9") == folded("E\u0301") != folded("e")


def test_a_name_is_the_same_request_however_it_is_typed():
    """The accent of its own, as macOS and some keyboards give it."""
    apart = Target(("Beyonce\u0301",), ("Zoe\u0308",))
    assert apart == Target(("Beyonc\u00e9",), ("Zo\u00eb",))
    assert apart.slug == "Zo\u00eb.then.Beyonc\u00e9"
