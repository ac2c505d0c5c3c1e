"""A bucket is not a folder, and pathlib must not hide it."""

import pathlib

import pytest

from rsfm_jax.core import uris


@pytest.mark.parametrize(
  ('path', 'scheme', 'whole'),
  [
    ('gs://bucket/a/b', 'gs', 'gs://bucket/a/b'),
    (pathlib.Path('gs://bucket/a'), 'gs', 'gs://bucket/a'),
    (pathlib.PurePosixPath('s3://b') / 'c', 's3', 's3://b/c'),
    ('S3://Bucket/Key', 's3', 's3://Bucket/Key'),
    ('https://host/x.tif', 'https', 'https://host/x.tif'),
    ('/mnt/gs/bucket', 'local', '/mnt/gs/bucket'),
    ('folder/with:/colon', 'local', 'folder/with:/colon'),
    (pathlib.Path('relative'), 'local', 'relative'),
    ('tfds:mnist', 'local', 'tfds:mnist'),
    ('C:/windows', 'local', 'C:/windows'),
    ('', 'local', ''),
  ],
)
def test_where_a_path_leads(path, scheme, whole):
  assert uris.scheme(path) == scheme
  assert uris.whole(path) == whole


def test_a_folder_is_given_back_as_a_path():
  assert uris.local('a/b', what='x', by='y', access='read') == pathlib.Path(
    'a/b'
  )


@pytest.mark.parametrize(
  ('path', 'access', 'message'),
  [
    (
      pathlib.Path('gs://b/run'),
      'write',
      r'gs://b/run: a workdir on gs:// is not carried by its lock; '
      r'mount the bucket \(gcsfuse\), or write .* \(gcloud storage cp -r\)\.',
    ),
    ('gs://b/run', 'read', r'\(gcsfuse\) or copy it here \(gcloud storage'),
    ('s3://b/run', 'read', r'on s3:// .*\(mount-s3\).*aws s3 cp'),
    ('s3://b/run', 'write', r'; write to a folder .*aws s3 cp'),
    ('az://b/run', 'read', r'on az:// .* give a folder of this machine'),
  ],
)
def test_what_is_not_carried_says_what_to_mount_or_copy(path, access, message):
  with pytest.raises(ValueError, match=message):
    uris.local(path, what='a workdir', by='its lock', access=access)
