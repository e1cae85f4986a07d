from dashboards.trial_callbacks import MOST_OFFERED, _first_choice, _options


def test_the_list_to_compare_starts_with_what_is_compared_then_the_front(studies):
    snapshot = studies.view("invented").snapshot()
    values = [option["value"] for option in _options(snapshot, [3])]
    assert values[0] == 3
    front = [row.number for row in snapshot.front if row.number != 3]
    assert values[1 : 1 + len(front)] == front
    assert 5 not in values
    assert len(values) == len(set(values)) <= MOST_OFFERED


def test_a_page_that_is_opened_shows_a_model_of_the_front(studies):
    front = {row.number for row in studies.view("invented").snapshot().front}
    assert _first_choice(studies, "invented") in front
