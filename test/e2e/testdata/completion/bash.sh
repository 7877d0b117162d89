# Prints what bash completes: for each line of stdin, "LINE" or its candidates, one
# each, and an empty line. The scripts to use are the arguments. A line is cut
# into words as bash cuts it; it has no quotes.
for script; do source "$script" || exit 1; done
COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
while IFS= read -r line; do
	COMP_WORDS=()
	spaced=${line//=/ = }
	spaced=${spaced//:/ : }
	read -ra COMP_WORDS <<<"$spaced"
	[[ $line == *' ' ]] && COMP_WORDS+=('')
	COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
	COMPREPLY=()
	spec=$(complete -p "${COMP_WORDS[0]}") || exit 1
	[[ $spec =~ -F\ ([a-z_]+) ]] && "${BASH_REMATCH[1]}" "${COMP_WORDS[0]}"
	[[ ${#COMPREPLY[@]} -gt 0 ]] && printf '%s\n' "${COMPREPLY[@]}"
	echo
done
