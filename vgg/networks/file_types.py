"""What the file of a network is: its content says so, not its suffix."""
import json
import zipfile

import h5py

from common import Refused

AGAIN = 'where it was made, save it as one file: '
LOAD = "tf.keras.models.load_model('{}').save('my_network.h5')"
SAVED_MODEL = f'a SavedModel of TensorFlow; {AGAIN}{LOAD}'
CHECKPOINT = ('a checkpoint of TensorFlow, weights without their layers; build the model as your '
              "training script does, then model.load_weights('{}') and model.save('my_network.h5')")
ONLY_KERAS = 'only networks of Keras can be explained'
SUFFIXES = {  # of files whose content has no signature
    '.onnx': f'a network in ONNX; {ONLY_KERAS}',
    '.pt': f'a network of PyTorch; {ONLY_KERAS} here, those of PyTorch by Zennit or Captum',
    '.pb': f'a graph of TensorFlow without its layers; {AGAIN}{LOAD}'}
SUFFIXES['.pth'] = SUFFIXES['.pt']
SIGNATURES = [  # (offset, content, what it is)
    (0, b'version https://git-lfs', 'a pointer of Git LFS, not the file itself; run: git lfs pull'),
    (0, b'{', 'a network without its weights; where it was made: '
              "model = model_from_json(open('{}').read()), then model.load_weights(...) and "
              "model.save('my_network.h5')"),
    (4, b'TFL3', f'a network in TensorFlow Lite; {ONLY_KERAS}'),
    (0, b'PK', 'an incomplete zip file; copy it again')]


def kind_of(path):
    """'keras 2' or 'keras 3' for a whole model, 'weights' for weights alone.

    Raises Refused for anything else: what it is, and what to do.
    """
    if path.is_dir() or path.name == 'saved_model.pb':
        folder = path if path.is_dir() else path.parent
        told(path, SAVED_MODEL.format(folder) if (folder / 'saved_model.pb').is_file()
             else 'a folder')
    prefix = path.with_name(path.name.split('.index')[0].split('.data-')[0])
    if prefix.with_name(f'{prefix.name}.index').is_file():
        told(path, CHECKPOINT.format(prefix))
    if not path.is_file():
        raise Refused(f'no weight file {path}')
    try:
        if h5py.is_hdf5(path):
            return kind_of_hdf5(path)
        if zipfile.is_zipfile(path):
            return kind_of_zip(path)
        with open(path, 'rb') as file:
            head = file.read(64)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        told(path, f'a damaged file ({error})')
    for offset, content, kind in SIGNATURES:
        if head[offset:].startswith(content):
            told(path, kind.replace('{}', str(path)))
    kind = SUFFIXES.get(path.suffix.lower(), 'neither a model of Keras (.keras, .h5) nor weights '
                                             '(.weights.h5, .h5, .npz)')
    told(path, kind.replace('{}', str(path)))


def kind_of_hdf5(path):
    with h5py.File(path, 'r') as file:
        if 'model_config' not in file.attrs:
            return 'weights'
        version = file.attrs.get('keras_version', '2')
    return keras_of(version.decode() if isinstance(version, bytes) else version)


def kind_of_zip(path):
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if {'config.json', 'metadata.json'} <= set(names):
            return keras_of(json.loads(archive.read('metadata.json')).get('keras_version', ''))
    if any(name.endswith('data.pkl') for name in names):
        told(path, SUFFIXES['.pt'])
    if any(name.endswith('.npy') for name in names):
        return 'weights'
    told(path, f'a zip file without a network; {ONLY_KERAS}')


def keras_of(version):
    return 'keras 2' if version.startswith(('1', '2')) else 'keras 3'


def told(path, kind):
    raise Refused(f'{path}: {kind}')
