# Refuse a release that this package was not built for, before anything is unpacked. Dependencies refuse another Python
# or processor. An upgrade is not refused: while Debian itself is upgraded, its name changes at some time before or after.
if [ "$1" = install ]; then
    release=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-unknown}")
    if [ "$release" != @RELEASE@ ]; then
        echo "cannot install @PACKAGE@: this package is for the release @RELEASE@, and this is $release." >&2
        echo "Install the package that was built for $release." >&2
        exit 1
    fi
fi
