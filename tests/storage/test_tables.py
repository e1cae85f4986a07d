from automl_prune.storage.tables import VERSION_TABLE, metadata, results


def test_nothing_of_ours_can_be_taken_for_optunas():
    assert all(name.startswith("ap_") for name in [*metadata.tables, VERSION_TABLE])


def test_a_trial_has_one_result_and_one_place_in_the_order():
    assert [c.name for c in results.primary_key] == ["study_id", "number"]
    unique = [
        sorted(c.name for c in constraint.columns)
        for constraint in results.constraints
        if type(constraint).__name__ == "UniqueConstraint"
    ]
    assert unique == [["finish_order", "study_id"]]
