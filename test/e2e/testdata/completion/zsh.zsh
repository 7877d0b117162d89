# Prints what the Tab key makes of each line of stdin in an interactive zsh. The
# scripts to use are the arguments, in one directory: those whose names begin with "_" are found in
# $fpath, the others are sourced.
zmodload zsh/zpty || exit 1
zpty z zsh -f -i
zpty -w z 'PS1= PS2= RPS1=; stty -echo columns 500; setopt no_beep; unsetopt prompt_cr prompt_sp'
dir=${argv[1]:h}
zpty -w z "fpath=(${(q)dir} \$fpath)"
zpty -w z "autoload -U compinit; compinit -D -u; zstyle ':completion:*' list no"
for script in ${argv:#*/_*}; do zpty -w z "source ${(q)script}"; done
zpty -w z 'show() { print -r -- "<<$BUFFER>>"; BUFFER=; zle reset-prompt }; zle -N show; bindkey "^X" show'
zpty -w z 'bindkey "^I" complete-word; print READY-$((40+2))'
zpty -r -m z out '*READY-42*' || exit 1
while IFS= read -r line; do
	zpty -w -n z "$line"$'\t'$'\x18'
	zpty -r -m z out '*<<*>>*' || exit 1
	out=${out##*<<}
	print -r -- "${out%%>>*}"
done
zpty -d z
