"""What the simulated product consists of: its features, the models they call, and how much of everything. Data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Model:
    """A model: how soon it starts to answer, how fast it goes on, and what it is called in answers."""

    name: str
    provider: str
    version: str
    first_token_ms: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature of the product, and the calls it makes. Token counts are lognormal: median and sigma."""

    name: str
    per_second: float
    models: tuple[tuple[str, float], ...]
    input_median: float
    output_median: float
    max_tokens: int
    prompt: str
    prompt_version: str
    output_sigma: float = 0.5
    operation: str = "chat"
    cached_share: float = 0.0
    retrieval_ms: float = 0.0
    streaming: bool = True
    temperature: float = 0.2


MODELS: Final = {
    model.name: model
    for model in (
        Model("gpt-4.1", "openai", "gpt-4.1-2025-04-14", 450, 85),
        Model("gpt-4.1-mini", "openai", "gpt-4.1-mini-2025-04-14", 320, 130),
        Model("claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5-20250929", 800, 75),
        Model("claude-haiku-4-5", "anthropic", "claude-haiku-4-5-20251001", 420, 150),
        Model("claude-opus-4-1", "anthropic", "claude-opus-4-1-20250805", 1_500, 50),
        Model("gemini-2.5-flash", "google", "gemini-2.5-flash", 300, 200),
        Model("text-embedding-3-small", "openai", "text-embedding-3-small", 80, 0),
    )
}

FEATURES: Final = (
    Feature(
        "chat",
        28,
        (("gpt-4.1", 0.7), ("gemini-2.5-flash", 0.2), ("claude-sonnet-4-5", 0.1)),
        input_median=1_400,
        output_median=180,
        max_tokens=2_048,
        prompt="assistant",
        prompt_version="v18",
        cached_share=0.4,
        temperature=0.7,
    ),
    Feature(
        "search-answers",
        20,
        (("gpt-4.1-mini", 0.6), ("gemini-2.5-flash", 0.4)),
        input_median=2_600,
        output_median=195,
        max_tokens=1_024,
        prompt="answer-from-passages",
        prompt_version="v7",
        cached_share=0.2,
        retrieval_ms=110,
    ),
    Feature(
        "summaries",
        12,
        (("claude-haiku-4-5", 0.6), ("gpt-4.1-mini", 0.4)),
        input_median=3_200,
        output_median=240,
        max_tokens=2_048,
        prompt="summary",
        prompt_version="v12",
        streaming=False,
    ),
    Feature(
        "code-completion",
        22,
        (("gpt-4.1-mini", 0.7), ("gemini-2.5-flash", 0.3)),
        input_median=900,
        output_median=40,
        max_tokens=512,
        prompt="fill-in",
        prompt_version="v41",
        cached_share=0.3,
        temperature=0.0,
    ),
    Feature(
        "batch-summary",
        2.5,
        (("claude-sonnet-4-5", 1.0),),
        input_median=14_000,
        output_median=2_000,
        max_tokens=8_192,
        prompt="long-summary",
        prompt_version="v3",
        output_sigma=0.25,
        streaming=False,
    ),
    Feature(
        "playground",
        1.0,
        (("gpt-4.1-mini", 0.8), ("claude-haiku-4-5", 0.2)),
        input_median=500,
        output_median=250,
        max_tokens=4_096,
        prompt="",
        prompt_version="",
        temperature=1.0,
    ),
    Feature(
        "embeddings",
        12,
        (("text-embedding-3-small", 1.0),),
        input_median=350,
        output_median=0,
        max_tokens=0,
        prompt="",
        prompt_version="",
        operation="embeddings",
        streaming=False,
    ),
)
"""What the product does, about 100 calls a second."""

LOOP: Final = Feature(
    "playground",
    4,
    (("claude-opus-4-1", 1.0),),
    input_median=30_000,
    output_median=1_200,
    max_tokens=4_096,
    prompt="",
    prompt_version="",
    output_sigma=0.3,
    temperature=1.0,
)
"""What the user of a spend spike adds."""
