"""What messages show of other things."""

import pytest

from moelora.errors import first_line


@pytest.mark.parametrize(
    "said, shown", [("", "no message"), ("\n \n", "no message"), ("one", "one"), ("\n one\ntwo", "one")]
)
def test_the_first_line_of_an_error_that_may_have_none(said, shown):
    assert first_line(ValueError(said)) == shown
    assert first_line(ValueError()) == "no message"
