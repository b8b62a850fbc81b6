"""Unpacks an image as a runtime does, by its index and digests: unpack_image.py ARCHIVE FOLDER"""

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile


def main(archive, folder):
    os.makedirs(folder, exist_ok=True)
    with tarfile.open(archive) as image:

        def file(name):
            return image.extractfile(name).read()

        def blob(described):
            content = file("blobs/" + described["digest"].replace(":", "/"))
            assert len(content) == described["size"], described
            assert "sha256:" + hashlib.sha256(content).hexdigest() == described["digest"], described
            return content

        assert json.loads(file("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
        (described,) = json.loads(file("index.json"))["manifests"]
        manifest = json.loads(blob(described))
        config = json.loads(blob(manifest["config"]))
        assert config["config"]["Entrypoint"] == ["/procwire"], config
        assert {"os": config["os"], "architecture": config["architecture"]}.items() <= described["platform"].items()
        # What docker reads names the same blobs.
        (docker,) = json.loads(file("manifest.json"))
        layers = ["blobs/" + layer["digest"].replace(":", "/") for layer in manifest["layers"]]
        assert docker["Layers"] == layers, docker
        for described, known in zip(manifest["layers"], config["rootfs"]["diff_ids"]):
            layer = gzip.decompress(blob(described))
            assert "sha256:" + hashlib.sha256(layer).hexdigest() == known, known
            with tarfile.open(fileobj=io.BytesIO(layer)) as files:
                for member in files:
                    assert not member.name.startswith(("/", "..")), member.name
                    files.extract(member, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
