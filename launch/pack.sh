# shellcheck shell=bash
# The working tree as it is here, as an archive, without what each machine makes for itself; scripts source this file.

# pack FILE, or - for standard output. Names, not patterns, say what of the top folder is left out (hidden files are):
# GNU's tar and BSD's disagree on which folders a pattern means.
pack() {
  local name names=()
  for name in *; do
    case $name in
      data | runs | build | dist | *.egg-info) ;;
      *) names+=("./$name") ;;
    esac
  done
  COPYFILE_DISABLE=1 run tar -czf "$1" --exclude=__pycache__ --exclude=.pytest_cache --exclude=.ruff_cache "${names[@]}"
}
