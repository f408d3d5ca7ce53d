"""What a recovery needs of a declaration, read from the stack."""

from saltext.openhim import settings
from saltext.openhim.recovery import layout

from tests.unit.recovery.declared import DECLARED
from tests.unit.recovery.reported import epoch


def test_a_layout_is_read_from_the_declared_stack():
    stack = settings.from_pillar({"openhim": DECLARED})
    found = layout.from_stack(stack, witnesses=("south-core",), max_skew=0.2)
    assert (found.stack, found.active_site, found.sites) == ("example", "north", ("north", "south"))
    assert found.at("south") == ("south-core", "south-db1")
    assert found.cores_at("north") == ("north-core",)
    assert [m.name for m in found.promoted_at("north")] == ["rs/north-db1:27017"]
    assert [m.host for m in found.promoted_at("south")] == ["south-db1"]
    assert (found.witnesses, found.max_skew) == (("south-core",), 0.2)


def test_what_holds_is_the_declaration_until_there_is_an_epoch():
    found = layout.from_stack(settings.from_pillar({"openhim": DECLARED}), witnesses=("w",))
    assert layout.reality(found, None) == layout.Reality(None, "north", (), ("w",))
    assert layout.reality(found, epoch()) == layout.Reality("1", "south", ("north",), ())
