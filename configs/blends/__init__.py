"""The paper's data: `catalog` declares each dataset once, `pretrain`, `sft` and `text` mix them as its tables do."""
