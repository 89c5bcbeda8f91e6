"""What was replaced is as it was, unless somebody else has built on it."""

from __future__ import annotations

from memprof.capture.replacements import Replacements


class Base:
    def greet(self) -> str:
        return "base"


class Owner(Base):
    def own(self) -> str:
        return "own"


def test_own_and_inherited_attributes_are_put_back() -> None:
    before = dict(vars(Owner))
    replaced = Replacements()
    assert not replaced
    replaced.put(Owner, "own", lambda self: "mine")
    replaced.put(Owner, "greet", staticmethod(lambda: "mine"))
    assert replaced
    assert (Owner().own(), Owner.greet()) == ("mine", "mine")
    replaced.undo()
    assert not replaced
    assert dict(vars(Owner)) == before
    assert (Owner().own(), Owner().greet()) == ("own", "base")


def test_what_somebody_has_wrapped_stays_and_is_retired() -> None:
    original = Owner.own

    def mine(self: Owner) -> str:
        return f"mine of {original(self)}"

    replaced = Replacements()
    replaced.put(Owner, "own", mine)
    wrapped = Owner.own
    Owner.own = lambda self: f"theirs of {wrapped(self)}"  # type: ignore[method-assign]
    try:
        replaced.undo()
        assert Owner().own() == "theirs of mine of own"
        assert hasattr(mine, "retired")
    finally:
        Owner.own = original  # type: ignore[method-assign]
