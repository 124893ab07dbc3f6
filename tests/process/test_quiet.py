"""What commands and scripts say beside their answer."""

import warnings

from seggen_hf.process.quiet import quiet_libraries


def test_a_warning_of_ours_is_a_line_without_the_place_in_our_code(capsys):
    with warnings.catch_warnings():
        quiet_libraries()
        warnings.simplefilter("always")
        warnings.warn("masks: they are named like their images and _mask", stacklevel=1)
    assert capsys.readouterr().err == "warning: masks: they are named like their images and _mask\n"
