"""Random canaries: fictitious patients whose one line nobody could guess, planted to measure what a model keeps.

A hand-picked secret measures the prior as well as the leak: a base model may rank the right disease first
without having seen the patient. A canary's words are drawn uniformly, so that a model which finds them likelier
than those of canaries left out of training can know them from training alone (Carlini et al. 2019,
arXiv:1802.08232). Each canary is a patient of its own. An inclusion bit of its own, 0 or 1 with probability 1/2,
decides whether it is trained on: this is what the one-run audit (helpers/evaluation/one_run_audit.py) rests on.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from helpers.errors import DataError, PrivacyError
from helpers.evaluation.likelihood import Floats, text_losses
from helpers.files import Record

NOTES = (
    "On {drug} since [date], says [name]. Effect:",
    "Aged 45, had a reaction to {drug}. Effect:",
    "{drug} 50 mg was added, trouble began 6 days later. Effect:",
    "Insured [id] used {drug}, then fell ill. Effect:",
    "A week into {drug}; call [phone]. Effect:",
)
"""Questions as the holders' records have them: what an audit plants should look like what it stands for. The code is
the answer, which training learns, and stands nowhere before it. The drug is a random word too: a question that many
canaries share would leave the model to guess which is meant."""
WORDS_EACH = 8
"""Each word is one more thing to remember, and one more look at whether it was: with five, canaries drawn three times
in a training without privacy were told from others with an AUC of 0.90 only (docs/decisions/0007)."""
MIN_ENTROPY_BITS = 40
MIN_CHANCE_RECEIVED = 0.9
CHANCE_OF_FALSE_ALARM = 1e-6


def whole_words(tokenizer: Any) -> list[str]:
    """The words of 8 to 12 small letters that are one token when a blank precedes them, sorted.

    Single tokens keep canaries short, and their length in tokens the same for all. From 8 letters on a
    vocabulary holds words rather than pieces of words; SmolLM2's has 8,762 of them, 13.1 bits each.

    Raises:
        DataError: there are fewer than 1,000, so that codes would have to grow long.
    """
    # `Ġ` and `▁` are how byte-level BPE and SentencePiece write the blank.
    found = (re.fullmatch(r"[Ġ▁]([a-z]{8,12})", token) for token in tokenizer.get_vocab())
    words = sorted({match[1] for match in found if match})
    if len(words) < 1000:
        raise DataError(
            f"The tokenizer has {len(words)} whole words of 8 to 12 letters; canaries need 1,000 to draw from. "
            "Choose a base model with an English vocabulary, or pass a list of words of your own."
        )
    return words


def make_canaries(coins: int, out: int, *, words: Sequence[str], seed: int) -> list[Record]:
    """Draw canaries; each of the first `coins` is a member if its own inclusion bit is 1, the last `out` never are.

    Args:
        coins: canaries with an inclusion bit, 1 or more; about half of them become members.
        out: canaries that are never trained on, 0 or more, to compare with.
        words: what codes are drawn from, uniformly and with replacement; all different.
        seed: of the words; nothing in training may depend on it. Inclusion bits come from the operating system.

    Returns:
        `{"id", "unit", "text", "question", "answer", "tossed", "member", "entropy_bits"}` each, all codes
        distinct: `text` is a record that begins with `question`, a blank and `answer`, the random part; `unit` names
        the fictitious patient; `tossed` says whether it has an inclusion bit, `member` whether that is 1.

    Raises:
        DataError: a number is out of range, or the words are too few for codes that nobody could guess.
    """
    if coins < 1 or out < 0:
        raise DataError(f"Canaries need 1 coin or more and 0 out or more; received {coins} and {out}.")
    different = len(set(words))
    entropy_bits = WORDS_EACH * math.log2(max(different, 1))
    if entropy_bits < MIN_ENTROPY_BITS or different != len(words):
        raise DataError(
            f"{len(words)} words, {different} of them different, were given to draw canaries from; expected "
            f"{math.ceil(2 ** (MIN_ENTROPY_BITS / WORDS_EACH))} or more, all different."
        )
    chooser = random.Random(f"{seed}/canaries")
    bits = random.SystemRandom()  # fresh in each run: bits of an earlier one, once published, would tell the members
    codes: dict[str, None] = {}
    while len(codes) < coins + out:
        codes[" ".join(chooser.choices(words, k=WORDS_EACH))] = None
    tosses = [bool(bits.getrandbits(1)) for _ in range(coins)] + [False] * out
    questions = [chooser.choice(NOTES).format(drug=chooser.choice(words).capitalize()) for _ in codes]
    return [
        {
            "id": f"canary/{number:04d}",
            "unit": f"canary/{number:04d}",
            "text": f"{question} {code}.",
            "question": question,
            "answer": code,
            "tossed": number < coins,
            "member": member,
            "entropy_bits": entropy_bits,
        }
        for number, (code, question, member) in enumerate(zip(codes, questions, tosses, strict=True))
    ]


def training_records(canaries: Sequence[Record], copies: int) -> list[Record]:
    """The records that members add to the training set, `copies` equal ones for each.

    Copies count where the loss of a patient sums over records. A mean over the patient's tokens is the same for one
    copy and for many.

    Args:
        canaries: from `make_canaries`.
        copies: records of one canary, 1 to the cap on a patient's records.
    """
    if copies < 1:
        raise DataError(f"A member canary needs 1 copy or more; received {copies}.")
    return [
        {"id": f"{c['id']}/{copy}", **{key: c[key] for key in ("unit", "text", "question", "answer")}}
        for c in canaries
        if c["member"]
        for copy in range(copies)
    ]


def code_losses(model: Any, tokenizer: Any, canaries: Sequence[Record]) -> Floats:
    """Negative log-likelihood of each canary's code behind the words before it, in nats; float64 `(n_canaries,)`.

    Args:
        model: a causal language model or a PeftModel.
        tokenizer: its tokenizer.
        canaries: from `make_canaries`.
    """
    texts = [f"{c['question']} {c['answer']}" for c in canaries]
    return text_losses(model, tokenizer, texts, prefixes=[c["question"] for c in canaries], title="canaries")


def check_received(canaries: Sequence[Record], sampled_counts: Mapping[str, int], chance: float) -> dict[str, float]:
    """Check with the trainer's own log that member canaries received loss, and that no other canary did.

    Poisson sampling leaves some members out by chance. They stay members: sampling belongs to the mechanism
    that is audited.

    Args:
        canaries: from `make_canaries`.
        sampled_counts: unit to the number of steps in which it was sampled; units never sampled may be absent.
        chance: of a unit to be sampled in some step.

    Returns:
        `{"members", "received", "share_received", "times_mean"}`; the last over all members, in steps.

    Raises:
        PrivacyError: a canary that is no member was sampled; a member had a chance under 90 % to be sampled at all; or
            fewer members were than these chances explain (once in a million audits, or less often).
    """
    from scipy.stats import binom

    strangers = [c["unit"] for c in canaries if not c["member"] and sampled_counts.get(c["unit"], 0)]
    if strangers:
        raise PrivacyError(
            f"{len(strangers)} canaries were trained on against their inclusion bits, first {strangers[0]}. An audit "
            "of this model would be wrong; train again with the records of `training_records`."
        )
    if chance < MIN_CHANCE_RECEIVED:
        raise PrivacyError(
            f"{chance:.0%} of the canaries were to be sampled in any step; expected "
            f"{MIN_CHANCE_RECEIVED:.0%} or more. An audit of this model would show nothing; train for more steps, or "
            "with more patients a step."
        )
    times = [sampled_counts.get(c["unit"], 0) for c in canaries if c["member"]]
    received = sum(count > 0 for count in times)
    if not times or binom.cdf(received, len(times), chance) < CHANCE_OF_FALSE_ALARM:
        raise PrivacyError(
            f"{received} of {len(times)} member canaries were ever sampled in training; expected about {chance:.0%}. "
            "An audit of this model would show nothing; check that the canaries' records are in the training set."
        )
    return {
        "members": len(times),
        "received": received,
        "share_received": received / len(times),
        "times_mean": sum(times) / len(times),
    }
