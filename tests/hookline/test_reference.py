# SPDX-License-Identifier: Apache-2.0
from hookline.reference import PAGE, reference_page


def test_the_committed_page_says_what_the_options_say():
    assert PAGE.read_text() == reference_page(), "run: python -m hookline.reference"
