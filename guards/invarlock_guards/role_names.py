"""The roles a weight can have, and the one table of names that tell roles structure cannot.

Names are whole attribute names of modules or parameters, never parts of them.
"""

from __future__ import annotations

from typing import Final, Literal

Family = Literal["ffn", "attn", "embed", "other"]
Role = Literal[
    "q", "k", "v", "qkv", "kv", "q_a", "q_b", "kv_a", "kv_b", "o",
    "up", "gate", "gate_up", "inner", "down",
    "embedding", "position", "segment", "head",
    "router", "embed_in", "embed_out", "transform", "pooler", "unknown",
]  # fmt: skip

FAMILIES: Final[dict[Family, tuple[Role, ...]]] = {
    "attn": ("q", "k", "v", "qkv", "kv", "q_a", "q_b", "kv_a", "kv_b", "o"),
    "ffn": ("up", "gate", "gate_up", "inner", "down"),
    # A tied head is the embedding, so untying must not move it to another family.
    "embed": ("embedding", "position", "segment", "head"),
    "other": ("router", "embed_in", "embed_out", "transform", "pooler", "unknown"),
}
FAMILY_OF: Final[dict[Role, Family]] = {
    role: family for family, roles in FAMILIES.items() for role in roles
}

# What an attention's inputs are called: structure cannot tell query, key and value apart.
ATTENTION_INPUTS: Final[dict[str, Role]] = {
    **dict.fromkeys(("q_proj", "q", "query", "q_lin", "query_proj", "to_q", "wq", "q_attn"), "q"),
    **dict.fromkeys(("k_proj", "k", "key", "k_lin", "key_proj", "to_k", "wk"), "k"),
    **dict.fromkeys(("v_proj", "v", "value", "v_lin", "value_proj", "to_v", "wv"), "v"),
    **dict.fromkeys(("qkv_proj", "qkv", "query_key_value", "Wqkv", "wqkv", "c_attn"), "qkv"),
    **dict.fromkeys(("kv_proj", "to_kv"), "kv"),
    "q_a_proj": "q_a",
    "q_b_proj": "q_b",
    "kv_a_proj_with_mqa": "kv_a",
    "kv_b_proj": "kv_b",
}
# Needed only where several matrices of an attention could be its output by their shape.
ATTENTION_OUTPUTS: Final = frozenset({"o_proj", "o", "out_proj", "out_lin", "c_proj", "wo"})
CROSS_ATTENTIONS: Final = frozenset(
    {"encoder_attn", "crossattention", "cross_attn", "EncDecAttention", "multihead_attn"}
)
# (gate, up): both map the residual stream to the inner width, so their shapes are alike.
GATE_AND_UP: Final = frozenset(
    {("gate_proj", "up_proj"), ("wi_0", "wi_1"), ("w1", "w3"), ("w1", "v1")}
)
# (up, down): needed only where the inner width is the residual stream's.
UP_AND_DOWN: Final = frozenset(
    {
        ("up_proj", "down_proj"), ("fc1", "fc2"), ("c_fc", "c_proj"), ("fc_in", "fc_out"),
        ("wi", "wo"), ("lin1", "lin2"), ("linear1", "linear2"), ("intermediate", "output"),
        ("dense_h_to_4h", "dense_4h_to_h"), ("ffn", "ffn_output"),
    }
)  # fmt: skip
DOWN: Final = frozenset({"down_proj", "wo", "w2"})
# Outside the blocks, and embeddings anywhere: tables of rows say nothing of what they count.
TOKEN_EMBEDDINGS: Final = frozenset({"wte", "embed_tokens", "word_embeddings", "tok_embeddings"})
POSITIONS: Final = frozenset(
    {
        "wpe", "embed_positions", "position_embeddings", "position_embedding", "positions_embed",
        "relative_attention_bias",
    }
)  # fmt: skip
SEGMENTS: Final = frozenset({"token_type_embeddings"})
HEADS: Final = frozenset({"lm_head", "classifier", "score", "qa_outputs", "seq_relationship"})
TRANSFORMS: Final = frozenset({"transform", "vocab_transform", "lm_head", "head", "classifier"})
POOLERS: Final = frozenset({"pooler"})
# The stacks of an encoder-decoder model, by the first part of the path that names one.
SIDES: Final = ("encoder", "decoder")
