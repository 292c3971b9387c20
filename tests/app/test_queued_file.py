"""How a file of the page is upscaled."""

import pytest

from flashvsr.app import Settings


@pytest.mark.parametrize(
    "settings", [{"size": "0.5x"}, {"size": "4.5x"}, {"size": "../a"}, {"container": "sh"}, {"detail": 1.5}]
)
def test_settings_that_no_button_gives_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        Settings(**settings)
