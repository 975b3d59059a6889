# apt-get for other releases of Debian than the machine's own, without touching what is installed.
# To be sourced:
#
#     other_apt DIRECTORY TYPE SUITE     # deb or deb-src; from then on "${apt[@]}" is that apt-get
#
# The mirror, the way to it and the keys are those that this machine's apt is set up with. Lists and
# packages go to DIRECTORY. Nothing counts as installed, so dependencies come out complete.

# What could not be had, as opposed to what has failed: EX_TEMPFAIL of sysexits.h.
readonly UNAVAILABLE=75

unavailable() {
    echo "$*" >&2
    exit "$UNAVAILABLE"
}

# Where this machine gets its own release of Debian from. Asks for no list that was fetched before.
debian_mirror() {
    local release
    release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    apt-get indextargets --no-release-info --format '$(RELEASE) $(COMPONENT) $(SITE)' 'Created-By: Packages' |
        awk -v release="$release" '$1 == release && $2 == "main" && !found++ { print $3 }'
}

other_apt() {
    local mirror keys=/usr/share/keyrings/debian-archive-keyring.gpg
    type -P apt-get > /dev/null || unavailable "This is no Debian: there is no apt-get."
    mirror=$(debian_mirror)
    [[ $mirror ]] || unavailable "This machine's apt has no mirror of Debian."
    mkdir -p "$1"/{lists,archives}/partial
    : > "$1/installed"
    echo "$2 $([[ ! -e $keys ]] || echo "[signed-by=$keys]") $mirror $3 main" > "$1/sources.list"
    apt=(
        apt-get -qq --yes --no-install-recommends
        -o Dir::Etc::SourceList="$1/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$1/lists" -o Dir::State::Status="$1/installed"
        -o Dir::Cache="$1" -o Dir::Cache::Archives="$1/archives"
        -o APT::Sandbox::User="" -o Acquire::Languages=none
        -o Acquire::Retries=5 -o Acquire::http::Timeout=60 -o Acquire::https::Timeout=60
    )
    "${apt[@]}" update
}
