#!/usr/bin/env bash
# What data/sweeps/ablations.csv was made by, from the project's root. Encoders of the zoo are found; eighteen are trained,
# about half an hour on two cores. It can be stopped and started again.
set -euo pipefail

sweep() { .venv/bin/python -m ciperlib sweep notebooks/one_encoder.ipynb --output out/ablations -p seed 0..2 "$@" || true; }

sweep -p method "simclr_clean_pass;predictive;random"
sweep -p alpha 0,0.1,1
sweep -p alpha 10 -p learning_rate 0.003
sweep -p augmentations "flip,jitter,grayscale;crop,jitter,grayscale;crop,flip,grayscale;crop,flip,jitter"
sweep -p augmentations "pose;" -p alpha 0,0.1,1
sweep -p augmentations "pose;" -p alpha 10 -p learning_rate 0.003
sweep -p augmentation_order reversed
sweep -p prediction_sign minus
sweep -p coordinates false
sweep -p flip_probability 0.8
sweep -p width 8
sweep -p alpha 0 -p epochs 45 # SimCLR with CIPER's three image passes
.venv/bin/python -m ciperlib collect out/ablations
cp out/ablations/table.csv data/sweeps/ablations.csv
