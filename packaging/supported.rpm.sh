# Refuse a release that this package was not built for, before anything is unpacked. Dependencies refuse another Python
# or processor.
if [ "$1" -eq 1 ]; then
    release=$(. /etc/os-release && printf '%s' "${PLATFORM_ID:-unknown}")
    if [ "$release" != platform:@RELEASE@ ]; then
        echo "cannot install @PACKAGE@: this package is for platform:@RELEASE@, and this is $release." >&2
        echo "Install the package that was built for it." >&2
        exit 1
    fi
fi
