#!/bin/sh
# First light on real input: CIFAR-10 (JPEG) and PneumoniaMNIST with the pretrained ViT-Ti at 224 px, on subsets.
# usage: . .venv/bin/activate && studies/first_light.sh <folder of assets>     (results: studies/first_light.md)
set -eu
assets=$(cd "$1" && pwd)
model="-S model.name=vit_tiny_patch16_224 -S model.checkpoint=$assets/vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors
    -S dataset.image_size=224 -S cipher.block_size=16 -S encrypt.images_per_shard=256"
cifar10="-S dataset.name=cifar10 -S dataset.path=$assets/cifar10_jpeg_q75.tar.xz
    -S dataset.train_fraction=0.01 -S dataset.test_fraction=0.05"
pneumoniamnist="-S dataset.name=pneumoniamnist -S dataset.path=$assets/pneumoniamnist.npz -S dataset.train_fraction=0.1 -S dataset.test_fraction=0.5"
linear="-S finetune.method=linear -S finetune.epochs=5 -S finetune.learning_rate=0.005"
lora="-S finetune.method=lora -S finetune.epochs=3 -S finetune.learning_rate=0.001"

# each run leaves its parameters in params.yaml, so every option that varies is set every time
for data in cifar10 pneumoniamnist; do
    for images in plain encrypted adapted; do
        case $images in
        plain) how="-S cipher.name=none -S adapt.enabled=true" ;;
        encrypted) how="-S cipher.name=block -S adapt.enabled=false" ;;
        adapted) how="-S cipher.name=block -S adapt.enabled=true" ;;
        esac
        for method in linear lora; do
            eval "data_options=\$$data; method_options=\$$method"
            # the adapted LoRA run goes through verify, audit and report as well
            target=evaluate
            if [ "$images-$method" = adapted-lora ]; then target=report; fi
            # shellcheck disable=SC2086
            dvc exp run --name "$data-$method-$images" $model $data_options $how $method_options $target
        done
    done
done
dvc exp show --only-changed --drop '.*version|git_revision|python.*|device' --md
