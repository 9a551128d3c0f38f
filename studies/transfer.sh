#!/bin/sh
# How well does the embedded micro-ViT, which has only seen rendered glyphs, transfer to handwriting?
# usage: . .venv/bin/activate && studies/transfer.sh     (results: studies/transfer.md; about 8 minutes on two cores)
set -eu
linear="-S finetune.method=linear -S finetune.epochs=10 -S finetune.learning_rate=0.01"
full="-S finetune.method=full -S finetune.epochs=5 -S finetune.learning_rate=0.0005"
lora="-S finetune.method=lora -S finetune.epochs=5 -S finetune.learning_rate=0.0005"

for images in plain encrypted adapted; do
    case $images in
    plain) how="-S cipher.name=none -S adapt.enabled=true" ;;
    encrypted) how="-S cipher.name=block -S adapt.enabled=false" ;;
    adapted) how="-S cipher.name=block -S adapt.enabled=true" ;;
    esac
    for method in linear full lora; do
        eval "options=\$$method"
        # shellcheck disable=SC2086
        dvc exp run --name "digits-$method-$images" $how $options evaluate
    done
done
