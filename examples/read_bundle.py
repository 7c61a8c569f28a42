"""Reads a bundle without splite-deploy: the schema, json, hashlib and numpy are enough. See docs/bundle-format.md.

python examples/read_bundle.py hand.splite splite_deploy/bundle/manifest.schema.json
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import jsonschema
import numpy as np

if len(sys.argv) != 3:
    sys.exit("usage: read_bundle.py BUNDLE MANIFEST_SCHEMA")
folder, schema = Path(sys.argv[1]), Path(sys.argv[2])

# The manifest: its checksum is of the bytes before the last "checksum", and its fields are those of the schema
content = (folder / "manifest.json").read_bytes()
start = content.rindex(b'"checksum"')
end = re.fullmatch(rb'"checksum"\s*:\s*"([0-9a-f]{64})"\s*}\s*', content[start:])
assert end and end[1].decode() == hashlib.sha256(content[:start]).hexdigest(), "the manifest was changed"
manifest = json.loads(content)
jsonschema.validate(manifest, json.loads(schema.read_text(encoding="utf-8")))

# Every file that it names
golden, model = manifest["golden"], manifest["model"]
for held in (*manifest["artifacts"], *manifest.get("graphs", ()), golden):
    digest = hashlib.sha256((folder / held["file"]).read_bytes()).hexdigest()
    assert digest == held["sha256"], f"{held['file']} is another file"
    print(f"{held['file']}: {digest[:16]}")

# The golden tensors
data = (folder / golden["file"]).read_bytes()
tensors = {
    name: np.frombuffer(data, np.dtype(t["dtype"]).newbyteorder("<"), int(np.prod(t["shape"])), t["offset"]).reshape(
        t["shape"]
    )
    for name, t in golden["tensors"].items()
}

# One golden output, decoded by the formulas of docs/bundle-format.md
decoder = model["decoder"]
if decoder["type"] not in ("softargmax", "softargmax-depth"):
    sys.exit(f"{model['name']}: all files are whole. This example has no formula for the decoder {decoder['type']}.")
maps = tensors["output.heatmap"][0].astype(float)
count, height, width = maps.shape
weights = np.exp(decoder["beta"] * (maps - maps.max(axis=(1, 2), keepdims=True)))
weights /= weights.sum(axis=(1, 2), keepdims=True)
stride, centres = decoder["stride"], []
for cells in (width, height):
    index = np.arange(cells)
    udp = index * (cells * stride - 1) / max(cells - 1, 1) + 0.5
    centres.append({"corner": (index + 0.5) * stride, "centre": index * stride + 0.5, "udp": udp}[decoder["alignment"]])
keypoints = np.stack([weights.sum(axis=1) @ centres[0], weights.sum(axis=2) @ centres[1]], axis=-1)
off = np.abs(keypoints - tensors["keypoints"][0]).max()
assert off < 1e-3, f"the keypoints lie {off} px off"
print(f"{model['name']}: {count} keypoints of the first golden crop, at most {off:.1e} px from those recorded")
