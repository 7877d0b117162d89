
# NAME_list: completes KEY's list of names and values in $cur.
NAME_list() {
	local key=$1 item=${cur##*,} head name
	head=${cur%"$item"}
	compopt -o nospace 2>/dev/null
	if [[ $item == *=* ]]; then
		name=${item%%=*}
		lead+=$head$name=
		cur=${item#*=}
		NAME_reply $(NAME_value "$key/$name")
		return
	fi
	for name in $(NAME_names "$key"); do
		[[ $name == "$item"* && ,$head != *,${name%=}[,=]* ]] && COMPREPLY+=("$head$name")
	done
}

# NAME_add: adds each line of stdin to what is offered.
NAME_add() {
	local line
	while IFS= read -r line; do
		COMPREPLY+=("$line")
	done
}

# NAME_reply: completes $cur by a kind and its words.
NAME_reply() {
	local kind=$1 IFS=$'\n'
	[[ $# -gt 0 ]] && shift
	case $kind in
	words) COMPREPLY+=($(compgen -W "$*" -- "$cur")) ;;
	file) compopt -o filenames 2>/dev/null; NAME_add < <(compgen -f -- "$cur") ;;
	dir) compopt -o filenames 2>/dev/null; NAME_add < <(compgen -d -- "$cur") ;;
	user) NAME_add < <(compgen -u -- "$cur") ;;
	profile)
		NAME_profiles
		compopt -o filenames 2>/dev/null
		NAME_add < <(compgen -f -- "$cur")
		;;
	list) IFS=$' \t\n' NAME_list "$1" ;;
	esac
}

# NAME_profiles: completes $cur to the name of an installed profile. A name is never
# expanded, as compgen -W would.
NAME_profiles() {
	local dir file
	for dir in "${XDG_CONFIG_HOME:-$HOME/.config}/swtpm" PROFILEDIRS; do
		for file in "$dir"/*PROFILESUFFIX; do
			[[ -e $file ]] || continue
			file=${file##*/}
			[[ $file == "$cur"* ]] && COMPREPLY+=("${file%PROFILESUFFIX}")
		done
	done
}

NAME() {
	local cur lead= word glue= path= option kinds=() words=() i last cut reply
	COMPREPLY=()
	# The shell cuts words at = and :, what belongs together is put together again.
	for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
		if [[ ${#words[@]} -gt 0 && ( $glue$word == 1[!-]* || $word == [=:]* ) ]]; then
			words[${#words[@]}-1]+=$word
		else
			words+=("$word")
		fi
		glue=
		[[ $word == *[=:] ]] && glue=1
	done
	last=$((${#words[@]} - 1))
	for ((i = 0; i < last; i++)); do
		word=${words[i]}
		if [[ ${#kinds[@]} -gt 0 ]]; then
			kinds=("${kinds[@]:1}")
		elif NAME_is_command "$path/$word"; then
			path+="/$word"
		elif [[ $word == -?* ]]; then
			mapfile -t kinds < <(NAME_args "$path/${word%%=*}")
			[[ $word == *=* && ${#kinds[@]} -gt 0 ]] && kinds=("${kinds[@]:1}")
		fi
	done
	cur=${words[last]}
	cut=${cur##*[=:]}
	cut=${cur%"$cut"}
	if [[ ${#kinds[@]} -gt 0 ]]; then
		NAME_reply ${kinds[0]}
	elif [[ $cur == -*=* ]]; then
		option=${cur%%=*}
		lead=$option=
		mapfile -t kinds < <(NAME_args "$path/$option")
		cur=${cur#*=}
		NAME_reply ${kinds[0]}
	else
		[[ $cur == -* ]] && COMPREPLY+=($(compgen -W "$(NAME_options "$path")" -- "$cur"))
		NAME_reply words $(NAME_commands "$path")
		NAME_reply $(NAME_operand "$path")
	fi
	for i in "${!COMPREPLY[@]}"; do
		reply=$lead${COMPREPLY[i]}
		COMPREPLY[i]=${reply#"$cut"}
	done
}
