"""What every objective must satisfy: pure functions of (objective, config, batch) that return a verdict.

The tests call them on every objective of this package, `python -m objectives.check` on a researcher's own file.
"""

from objectives.additivity import (
    adds_over_any_split,
    declares_its_terms,
    neighbours_are_isolated,
    nothing_scored_is_zero,
    order_of_rows_is_irrelevant,
    packing_is_irrelevant,
    padding_is_deleting,
    penalties_know_parameters_only,
    sums_stay_float32,
    weights_are_respected,
    weights_know_no_parameters,
)
from objectives.answers import (
    answers_are_predicted_in_place,
    no_prediction_reads_its_answer,
    special_tokens_are_no_answers,
)
from objectives.draws import (
    claims_can_fail,
    corrupts_as_claimed,
    encodes_differ,
    examples_draw_apart,
    made_rows_tell_no_labels,
    makes_examples_as_claimed,
    segments_draw_apart,
    steps_draw_anew,
)
from objectives.gradients import (
    any_vocabulary,
    gradients_are_finite,
    gradients_are_those_of_the_loss,
    gradients_reach_the_backbone,
    wrong_answers_cost,
)
from objectives.learning import (
    accuracy_follows_the_loss,
    one_batch_can_be_learned,
    predictions_are_probabilities,
    starts_at_its_closed_form,
    states_stay_apart,
)
from objectives.verdict import Property

PROPERTIES: tuple[Property, ...] = (
    declares_its_terms,
    adds_over_any_split,
    padding_is_deleting,
    neighbours_are_isolated,
    packing_is_irrelevant,
    order_of_rows_is_irrelevant,
    weights_know_no_parameters,
    weights_are_respected,
    nothing_scored_is_zero,
    penalties_know_parameters_only,
    sums_stay_float32,
    starts_at_its_closed_form,
    any_vocabulary,
    wrong_answers_cost,
    gradients_are_finite,
    gradients_are_those_of_the_loss,
    gradients_reach_the_backbone,
    no_prediction_reads_its_answer,
    answers_are_predicted_in_place,
    special_tokens_are_no_answers,
    predictions_are_probabilities,
    corrupts_as_claimed,
    examples_draw_apart,
    steps_draw_anew,
    segments_draw_apart,
    encodes_differ,
    makes_examples_as_claimed,
    made_rows_tell_no_labels,
    claims_can_fail,
    one_batch_can_be_learned,
    accuracy_follows_the_loss,
    states_stay_apart,
)


LOCAL: tuple[Property, ...] = (
    adds_over_any_split,
    padding_is_deleting,
    neighbours_are_isolated,
    order_of_rows_is_irrelevant,
    weights_are_respected,
)
"""Those that fail on some rows of a batch and not on others, so that a smaller failing batch can be looked for."""

_DRAWS = ("corrupt", "__call__")
ABOUT: dict[Property, tuple[str, ...]] = {
    declares_its_terms: ("coefficients", "score", "__call__"),
    starts_at_its_closed_form: ("initial_loss", "score", "__call__"),
    weights_are_respected: ("initial_loss", "score", "__call__"),
    corrupts_as_claimed: ("corrupt", "corruption_claims"),
    examples_draw_apart: _DRAWS,
    steps_draw_anew: _DRAWS,
    segments_draw_apart: _DRAWS,
    special_tokens_are_no_answers: _DRAWS,
    makes_examples_as_claimed: ("make_example", "example_claims"),
    made_rows_tell_no_labels: ("make_example",),
    claims_can_fail: ("corruption_claims", "example_claims"),
}
"""Methods in which a failure is looked for first; without an entry it is where the loss is made."""
