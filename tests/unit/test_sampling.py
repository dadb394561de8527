import math
import threading

import pytest
import torch
from datasets import Dataset, IterableDataset
from hypothesis import given
from hypothesis import strategies as st

from htpo_trl import HTPOTrainer
from htpo_trl.training.collect import Round, collect
from htpo_trl.training.prompts import prompt_key
from htpo_trl.training.sampling import (
    PromptStream,
    SamplingExhaustedError,
)

from ..training_run import half_solvable, prompts


def stream(n, *, seed=0, iterable=False, shuffle=True):
    data = prompts(n)
    dataset = IterableDataset.from_generator(lambda: iter(data)) if iterable else Dataset.from_list(data)
    return PromptStream(dataset, seed, shuffle)


def numbers(examples):
    return [example["number"] for example in examples]


@pytest.mark.parametrize("iterable", [False, True])
class TestPromptStream:
    def test_each_pass_is_another_order_of_all(self, iterable):
        walk = stream(9, iterable=iterable)
        first, second = (numbers(walk.draw(9, set())) for _ in range(2))
        assert sorted(first) == sorted(second) == list(range(9))
        assert first != second
        assert first == numbers(stream(9, iterable=iterable).draw(9, set()))
        assert first != numbers(stream(9, seed=1, iterable=iterable).draw(9, set()))
        assert numbers(stream(9, iterable=iterable, shuffle=False).draw(9, set())) == list(range(9))

    def test_goes_on_where_it_was(self, iterable):
        whole = stream(7, iterable=iterable)
        expected = [numbers(whole.draw(3, set())) for _ in range(6)]
        for cut in range(6):
            before = stream(7, iterable=iterable)
            got = [numbers(before.draw(3, set())) for _ in range(cut)]
            after = stream(7, iterable=iterable)
            after.drawn = before.drawn
            got += [numbers(after.draw(3, set())) for _ in range(6 - cut)]
            assert got == expected

    def test_prompts_that_are_held_are_passed_over(self, iterable):
        held = {prompt_key(f"{i:02d}") for i in range(5)}
        assert sorted(numbers(stream(8, iterable=iterable).draw(3, held))) == [5, 6, 7]

    def test_ends_after_a_pass_that_offers_nothing_new(self, iterable):
        walk = stream(4, iterable=iterable)
        walk.draw(2, set())
        assert sorted(numbers(walk.draw(10, set()))) == [0, 1, 2, 3]
        assert walk.draw(1, {prompt_key(f"{i:02d}") for i in range(4)}) == []

    def test_empty_data(self, iterable):
        walk = PromptStream(
            IterableDataset.from_generator(lambda: iter([])) if iterable else Dataset.from_list([]), 0, shuffle=False
        )
        with pytest.raises(ValueError, match="The training data is empty"):
            walk.draw(1, set())


class Processes:
    """Threads in the place of processes: `exchange` concatenates what each of them brings."""

    def __init__(self, n):
        self.barrier, self.brought = threading.Barrier(n), [None] * n

    def exchange(self, rank):
        def exchange(values):
            self.brought[rank] = values
            self.barrier.wait()
            gathered = [value for part in self.brought for value in part]
            self.barrier.wait()
            return gathered

        return exchange

    def run(self, function):
        results = [None] * len(self.brought)

        def target(rank):
            try:
                results[rank] = function(rank)
            except BaseException:
                self.barrier.abort()
                raise

        threads = [threading.Thread(target=target, args=(rank,)) for rank in range(len(results))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


@given(
    n_processes=st.integers(1, 4),
    group_size=st.integers(2, 6),
    n_batch=st.integers(1, 3),
    max_rounds=st.integers(1, 5),
    n_data=st.integers(12, 80),
    solvable=st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 1000),
)
def test_collect(n_processes, group_size, n_batch, max_rounds, n_data, solvable, seed):
    """Whatever the layout: whole groups, in order, of different prompts, and all informative unless it says so."""
    n_rows = math.lcm(n_processes, group_size) * n_batch // n_processes
    wanted = n_rows * n_processes // group_size
    data = prompts(max(n_data, wanted))
    threshold = len(data) * solvable
    rewards_of = [
        [float(i * 7 % len(data) < threshold and j % 2) for j in range(group_size)] for i in range(len(data))
    ]
    processes = Processes(n_processes)
    generated = [[] for _ in range(n_processes)]

    def run(rank):
        walk = PromptStream(data, seed)
        exchange = processes.exchange(rank)

        def roll_out(inputs):
            generated[rank].append(len(inputs))
            gathered = exchange([row["number"] for row in inputs])
            groups = gathered[::group_size]
            assert gathered == [i for i in groups for _ in range(group_size)]
            rewards = torch.tensor([rewards_of[i] for i in groups])
            offset = rank * len(inputs)
            rows = [(row["number"], (offset + k) % group_size) for k, row in enumerate(inputs)]
            accuracy = rewards.mean(dim=1).tolist()
            return Round(rows, rewards.view(-1, 1), accuracy, [0 < share < 1 for share in accuracy])

        first = [row for row in data[:wanted] for _ in range(group_size)]
        return collect(
            first[rank * n_rows : (rank + 1) * n_rows],
            roll_out=roll_out,
            draw=walk.draw,
            exchange=exchange,
            group_size=group_size,
            rank=rank,
            n_processes=n_processes,
            max_rounds=max_rounds,
        )

    batches = processes.run(run)
    rows = [row for batch in batches for row in batch.rows]
    numbers = [number for number, _ in rows][::group_size]
    assert rows == [(number, j) for number in numbers for j in range(group_size)]
    assert all(len(batch.rows) == n_rows for batch in batches)
    assert len(set(numbers)) == wanted
    informative = [0 < sum(rewards_of[i]) < group_size for i in numbers]
    for batch in batches:
        assert batch.rewards.flatten().tolist() == [r for i in numbers for r in rewards_of[i]]
        assert batch.rounds <= max_rounds
        assert batch.missing == informative.count(False)
        assert batch.accuracy == batches[0].accuracy
    assert len(batches[0].accuracy) * group_size == sum(map(sum, generated))
    assert all(sizes == generated[0] for sizes in generated)
    assert all(size <= n_rows for size in generated[0])
    if batches[0].missing and batches[0].rounds < max_rounds:
        assert sum(0 < sum(r) < group_size for r in rewards_of) < wanted + n_processes, "it gave up too early"
    assert informative == sorted(informative, reverse=True)


def test_next_round_is_as_large_as_the_share_of_informative_groups_asks(make_trainer):
    sizes = []

    def reward(prompts, completions, **kwargs):
        """The first batch of 8 groups has 6 informative ones, so 2 / 0.75 -> 3 are generated next; all are."""
        sizes.append(len(prompts))
        return [float(i % 4 == 0 and (len(sizes) > 1 or i >= 8)) for i in range(len(prompts))]

    trainer = make_trainer(reward_funcs=reward, dynamic_sampling=True, max_steps=1)
    trainer.train()
    assert sizes == [32, 12]
    log = trainer.state.log_history[0]
    assert log["htpo/sampling/rounds"] == 2
    assert log["htpo/sampling/frac_informative"] == 9 / 11
    assert log["htpo/sampling/frac_all_wrong"] == 2 / 11
    assert log["htpo/sampling/frac_all_correct"] == 0
    assert log["htpo/sampling/generated_per_trained"] == 11 / 8
    assert log["htpo/sampling/accuracy"] == pytest.approx(9 / 4 / 11)
    assert log["htpo/sampling/frac_filled"] == 0
    assert log["htpo/sampling/seconds"] > 0


def test_without_shuffling_fresh_prompts_come_in_the_order_of_the_data(make_trainer, dataset):
    rounds = []

    def reward(prompts, completions, **kwargs):
        """All of the first round is wrong, so that the second is of fresh prompts alone."""
        rounds.append(prompts[::4])
        return [float(i % 4 == 0 and len(rounds) > 1) for i in range(len(prompts))]

    make_trainer(reward_funcs=reward, dynamic_sampling=True, shuffle_dataset=False, max_steps=1).train()
    assert rounds == [dataset["prompt"][:8]] * 2  # the walk begins with the data, whatever the trainer has drawn


def test_a_log_that_one_round_alone_has_stays_with_its_completions(make_trainer):
    rounds = []

    def reward(prompts, completions, log_extra, **kwargs):
        """Of the first round half is informative."""
        rounds.append(completions)
        if len(rounds) > 1:
            log_extra("later", list(completions))
        return [float(i % 4 == 0 and (len(rounds) > 1 or i >= 16)) for i in range(len(prompts))]

    trainer = make_trainer(reward_funcs=reward, dynamic_sampling=True)
    trainer.model.train()
    trainer._generate_and_score_completions([{"prompt": f"{i:02d}"} for i in range(8) for _ in range(4)])
    later = list(trainer._logs["extra"]["later"])
    assert len(rounds) == 2
    assert later == [None] * 16 + list(trainer._logs["completion"])[16:]


def length(completions, **kwargs):
    return [-len(text) / 100 for text in completions]


def test_a_shaped_reward_does_not_rescue_a_group(make_trainer):
    trainer = make_trainer(
        reward_funcs=[half_solvable, length], dynamic_sampling=True, reward_weights=[1.0, 1.0], max_steps=1
    )
    trainer.train()
    assert trainer.state.log_history[0]["htpo/sampling/rounds"] > 1


def test_columns_logs_and_none(make_trainer, make_model, tokenizer, make_config):
    """Extra columns reach the reward functions, in later rounds too; their extra logs stay with their completions."""
    seen, sizes = [], []

    def verdict(prompts, completions, number, log_extra, log_metric, **kwargs):
        assert number == [int(p) for p in prompts]
        log_extra("copy", list(completions))
        log_metric("rows", len(completions))
        seen.extend(prompts)
        sizes.append(len(prompts))
        rewards = half_solvable(prompts, completions)
        return [None if i % 4 == 0 else reward for i, reward in enumerate(rewards)]

    config = make_config(dynamic_sampling=True, log_completions=True, max_steps=1, report_to="none")
    trainer = HTPOTrainer(make_model(), verdict, config, Dataset.from_list(prompts(64)), processing_class=tokenizer)
    trainer.model.train()
    output = trainer._generate_and_score_completions([row for row in prompts(8) for _ in range(4)])
    assert len(seen) > 32
    assert len(trainer._logs["extra"]["copy"]) == 32
    assert list(trainer._logs["extra"]["copy"]) == list(trainer._logs["completion"])
    # A call of a later, smaller round weighs as much as it has rows.
    assert len(set(sizes)) > 1
    assert trainer._metrics["train"]["rows"] == [pytest.approx(sum(n * n for n in sizes) / sum(sizes))]
    decoded = [tokenizer.decode(ids, skip_special_tokens=True) for ids in output["completion_ids"]]
    assert decoded == list(trainer._logs["completion"])
    judged = output["is_judged"].view(8, 4)
    assert judged.sum(dim=1).tolist() == [3] * 8
    correct = output["is_correct"].view(8, 4).sum(dim=1)
    assert ((correct > 0) & (correct < 3)).all()


def test_discarded_completions_are_not_scored(make_trainer, monkeypatch):
    trainer = make_trainer(reward_funcs=half_solvable, dynamic_sampling=True)
    trainer.model.train()
    scored = []
    forward = type(trainer)._get_per_token_logps_and_entropies

    def counted(self, model, input_ids, *args, **kwargs):
        scored.append(len(input_ids))
        return forward(self, model, input_ids, *args, **kwargs)

    monkeypatch.setattr(type(trainer), "_get_per_token_logps_and_entropies", counted)
    rows = [{"prompt": f"{i:02d}"} for i in range(8) for _ in range(4)]
    trainer._generate_and_score_completions(rows)
    assert trainer._metrics["train"]["htpo/sampling/generated_per_trained"][0] > 1.5
    assert scored == [32]


def test_evaluation_samples_as_ever(make_trainer, dataset):
    trainer = make_trainer(
        reward_funcs=lambda completions, **kwargs: [0.0] * len(completions),
        dynamic_sampling=True,
        per_device_eval_batch_size=8,
        eval_dataset=dataset.select(range(4)),
    )
    assert trainer.evaluate()["eval_htpo/accuracy"] == 0


@pytest.mark.parametrize("iterable", [False, True])
def test_same_seed_same_prompts(make_model, tokenizer, make_config, iterable):
    def prompts_of(seed):
        data = prompts(64)
        dataset = IterableDataset.from_generator(lambda: iter(data)) if iterable else Dataset.from_list(data)
        seen = []

        def reward(prompts, completions, **kwargs):
            seen.append(prompts)
            return half_solvable(prompts, completions)

        config = make_config(dynamic_sampling=True, seed=seed)
        trainer = HTPOTrainer(make_model(), reward, config, dataset, processing_class=tokenizer)
        trainer.train()
        return seen

    assert prompts_of(1) == prompts_of(1)
    assert prompts_of(1) != prompts_of(2)


def hopeless(completions, trainer_state, **kwargs):
    """Mixed verdicts in the first generation batch, only wrong ones later."""
    return [float(i % 4 == 0 and trainer_state.global_step < 4) for i in range(len(completions))]


def test_exhausted_saves_and_stops(make_trainer, tmp_path):
    options = {"dynamic_sampling": True, "max_sampling_rounds": 3, "max_steps": 8}
    trainer = make_trainer(reward_funcs=hopeless, **options)
    with pytest.raises(SamplingExhaustedError) as error:
        trainer.train()
    message = str(error.value)
    assert "0 informative groups of the 8" in message
    assert "3 rounds (max_sampling_rounds=3)" in message
    assert "100.0% all wrong" in message
    assert "saved at step 4" in message
    assert "on_sampling_exhausted='train'" in message

    resumed = make_trainer(reward_funcs=half_solvable, resume_with_changes=True, **options)
    with pytest.warns(UserWarning, match=r"rewards \['hopeless'\] -> \['half_solvable'\]"):
        resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8

    filled = make_trainer(reward_funcs=hopeless, on_sampling_exhausted="train", **options)
    with pytest.warns(UserWarning, match="The batch is filled with discarded groups"):
        filled.train()
    log = filled.state.log_history
    assert filled.state.global_step == 8
    assert log[4]["frac_reward_zero_std"] == log[4]["htpo/sampling/frac_filled"] == 1
    assert log[4]["htpo/sampling/rounds"] == 3


def test_data_without_other_prompts(make_trainer, make_config, make_model, tokenizer):
    """Eight prompts make up the batch; where only four can be solved, no other round can fill it."""
    config = make_config(dynamic_sampling=True, max_sampling_rounds=50)
    trainer = HTPOTrainer(
        make_model(), half_solvable, config, Dataset.from_list(prompts(8)), processing_class=tokenizer
    )
    with pytest.raises(SamplingExhaustedError, match="4 informative groups of the 8"):
        trainer.train()


def test_refusals(make_config):
    with pytest.raises(ValueError, match="max_sampling_rounds=0"):
        make_config(max_sampling_rounds=0)
    with pytest.raises(ValueError, match="on_sampling_exhausted='stop' is not one of 'error', 'train'"):
        make_config(on_sampling_exhausted="stop")
