"""Data sets of the Hub as folders on this machine: made-up rows of every set, and what is to be read from them."""

import json

import datasets


# Where each set is on the Hub and which columns are read: to be compared with the set's page if a download fails.
EXPECTED = {
    "dapo-math-17k": ("BytedTsinghua-SIA/DAPO-Math-17k", None, "train", "prompt", "reward_model"),
    "dapo-math-17k-processed": ("open-r1/DAPO-Math-17k-Processed", "all", "train", "prompt", "solution"),
    "dapo-math-17k-english": ("open-r1/DAPO-Math-17k-Processed", "en", "train", "prompt", "solution"),
    "aime24": ("HuggingFaceH4/aime_2024", None, "train", "problem", "answer"),
    "aime25": ("math-ai/aime25", None, "test", "problem", "answer"),
    "amc23": ("math-ai/amc23", None, "test", "question", "answer"),
    "math500": ("HuggingFaceH4/MATH-500", None, "test", "problem", "answer"),
    "minerva": ("svc-huggingface/minerva-math", None, "test", "problem", "solution"),
    "olympiadbench": ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train", "question", "final_answer"),
    "gsm8k": ("openai/gsm8k", "main", "test", "question", "answer"),
    "gsm8k-train": ("openai/gsm8k", "main", "train", "question", "answer"),
}

DAPO_FRAME = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\nRemember to put your answer on its "
    'own line after "Answer:".'
)


def dapo_row(problem, answer, frame=DAPO_FRAME):
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": frame.format(problem), "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": "9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079"},
    }


PROCESSED_ROW = {"prompt": "What is 6 times 7?", "solution": "42", "source_prompt": [], "ability": "MATH"}
GSM8K_ROW = {"question": "What is 600 times 7?", "answer": "#### by 7:\n600 * 7 = <<600*7=4200>>4200\n#### 4,200"}

# Made-up rows with the columns of the set, and what is to be read from them.
ROWS = {
    "dapo-math-17k": (dapo_row("What is $6\\cdot7$?", "42"), "What is $6\\cdot7$?", "42"),
    "dapo-math-17k-processed": (PROCESSED_ROW, "What is 6 times 7?", "42"),
    "dapo-math-17k-english": (PROCESSED_ROW, "What is 6 times 7?", "42"),
    "aime24": ({"id": 60, "problem": "P", "solution": "long", "answer": "025", "url": "u", "year": "2024"}, "P", "25"),
    "aime25": ({"problem": "P", "answer": 70, "id": "0"}, "P", "70"),
    "amc23": ({"id": 0, "question": "Q", "answer": "27", "url": "u"}, "Q", "27"),
    "math500": (
        {
            "problem": "P",
            "solution": "S",
            "answer": "\\frac{1}{2}",
            "subject": "Algebra",
            "level": 2,
            "unique_id": "i",
        },
        "P",
        "\\frac{1}{2}",
    ),
    "minerva": (
        {"problem": "P", "solution": "So \\boxed{1}, or \\boxed{\\frac{a}{\\sqrt{b}}} m.", "type": "t", "idx": 0},
        "P",
        "\\frac{a}{\\sqrt{b}}",
    ),
    "olympiadbench": (
        {"id": 1, "question": "Q", "solution": ["S"], "final_answer": ["$69$,$84$"], "is_multiple_answer": True},
        "Q",
        "69,84",
    ),
    "gsm8k": (GSM8K_ROW, "What is 600 times 7?", "4200"),
    "gsm8k-train": (GSM8K_ROW, "What is 600 times 7?", "4200"),
}


def write_jsonl(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def publisher(directory, monkeypatch):
    """Publishes sets as folders named like those of the Hub: `load_dataset` prefers and reads them as it reads it."""
    monkeypatch.chdir(directory)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(directory / "cache"))

    def publish(name, *rows):
        hub_id, config, split, *_ = EXPECTED[name]
        write_jsonl(directory / hub_id / "rows.jsonl", *rows)
        write_jsonl(directory / hub_id / "other.jsonl", {"not": "this one"})
        card = f"---\nconfigs:\n- config_name: {config or 'default'}\n  data_files:\n"
        card += f"  - split: {split}\n    path: rows.jsonl\n"
        if config:
            card += "- config_name: other\n  data_files: other.jsonl\n"
        (directory / hub_id / "README.md").write_text(f"{card}---\n")

    return publish
