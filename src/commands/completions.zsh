
# Names that are on the machine at that moment are asked for.
_overstore_stores() {
    local -a names
    names=(${(f)"$(overstore list --names 2>/dev/null)"})
    _alternative 'stores:store:compadd -a names' 'files:description:_files -g "*.toml"'
}
_overstore_publications() {
    local -a names
    names=(${(f)"$(overstore list --names --publications 2>/dev/null)"})
    _alternative 'publications:publication:compadd -a names' 'files:description:_files -g "*.toml"'
}
_overstore_paths_below() {
    local -a names
    local store=${${words:#-*}[2]}
    names=(${(f)"$(overstore list --names --below "$store" 2>/dev/null)"})
    _alternative 'paths:path of the lower store:compadd -a names' 'files:file:_files'
}
