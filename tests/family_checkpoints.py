"""Tiny random checkpoints of transformers' families, as hubs hold them."""

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertTokenizer,
    EsmTokenizer,
)

from crossdna.tokenizers.bpe import train_byte_pairs
from crossdna.tokenizers.kmer import (
    OverlappingKmerTokenizer,
    overlapping_vocabulary,
    separate_kmer_tokenizer,
    separate_vocabulary,
)

BERT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 140,
}  # fmt: skip
LLAMA = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 24,
}  # fmt: skip
MAMBA = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "expand": 2}
MAMBA2 = {**MAMBA, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 16}
# Name: model_type, tokenizer, sizes.
CHECKPOINTS = {
    "dnabert": ("bert", "overlapping-3", BERT),
    "dnabert-files": ("bert", "overlapping-3-files", BERT),
    "grover": ("bert", "bpe", BERT),
    "nucleotide-transformer": ("esm", "separate-3-files", BERT),
    "plant-esm": ("esm", "separate-2", BERT),
    "gena-roberta": ("roberta", "bpe", BERT),
    "gena-bigbird": ("big_bird", "bpe", BERT),
    "modernbert": ("modernbert", "separate-1", LLAMA),
    "gpt2": ("gpt2", "bpe", {"n_embd": 16, "n_layer": 2, "n_head": 2}),
    "gpt2-kmer": ("gpt2", "separate-3", {"n_embd": 16, "n_layer": 2, "n_head": 2}),
    "mistral": ("mistral", "separate-1", LLAMA),
    "mistral-dna": ("mixtral", "bpe", {**LLAMA, "num_local_experts": 2}),
    "gemma": ("gemma", "bpe", LLAMA),
    "llama": ("llama", "bpe", LLAMA),
    "mamba": ("mamba", "separate-2", MAMBA),
    "mamba2": ("mamba2", "separate-1", MAMBA2),
}  # fmt: skip


def byte_pairs(folder):
    """A byte-pair tokenizer of 40 tokens."""
    path = folder / "bpe.fa"
    draw = torch.Generator().manual_seed(0)
    letters = torch.randint(0, 4, (6000,), generator=draw).tolist()
    path.write_text(">one\n" + "".join("ACGT"[i] for i in letters) + "\n")
    return train_byte_pairs([path], vocab_size=40).tokenizer


def tokenizer(kind, folder):
    """Make a tokenizer: kind, k, and whether as its authors' files."""
    if kind == "bpe":
        return byte_pairs(folder)
    name, k, *files = kind.split("-")
    if not files:
        makers = {
            "overlapping": OverlappingKmerTokenizer,
            "separate": separate_kmer_tokenizer,
        }
        return makers[name](int(k))
    words = overlapping_vocabulary if name == "overlapping" else separate_vocabulary
    path = folder / "words.txt"
    path.write_text("\n".join(words(int(k))))
    if name == "overlapping":
        return BertTokenizer(str(path), do_lower_case=False)
    return EsmTokenizer(str(path), eos_token=None)


def save(name, folder, auto=None, **changes):
    """Save a checkpoint with random weights and its tokenizer; gives the directory."""
    model_type, kind, sizes = CHECKPOINTS[name]
    path = folder / "-".join([name, *map(str, changes)])
    if path.exists():
        return path
    path.mkdir()
    made = tokenizer(kind, path)
    special = {
        "pad_token_id": made.pad_token_id, "bos_token_id": made.cls_token_id,
        "eos_token_id": made.sep_token_id, "mask_token_id": made.mask_token_id,
    }  # fmt: skip
    config = CONFIG_MAPPING[model_type](
        vocab_size=len(made), **special, **{**sizes, **changes}
    )
    if auto is None:
        masked = type(config) in AutoModelForMaskedLM._model_mapping
        auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Freshly drawn, a network hardly looks at what it reads.
            if parameter.ndim > 1:
                parameter.mul_(4)
    model.save_pretrained(path)
    made.save_pretrained(path)
    return path
