"""Several workers share one study safely, also when one of them is killed."""

import pytest
from studies import make_study
from workers import finish_with_a_kill


@pytest.mark.slow
def test_four_workers_on_a_journal_finish_forty_trials_though_one_is_killed(tmp_path):
    print(finish_with_a_kill(make_study(tmp_path, trials=40)))
