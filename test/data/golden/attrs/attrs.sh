declare big=705032704
declare builder='/bin/sh'
declare e20=-2147483648
declare -a empty=()
declare -A emptyMap=()
declare int=42
declare -a list2=('a b' 'c'\''d' 1 '' 7 )
declare -A map2=(['k']=1 ['x']='1' )
declare name='attrs'
declare neg=-7
declare no=
declare nul=''
declare -A outputs=(['dev']='/tmp/golden/store/0hqh0gb3h2isv37rfbgp9pbp7200iwwg-attrs-dev' ['out']='/tmp/golden/store/zc5cdc47hkhw8wdb53rqc61zpdszxpa6-attrs' )
declare placeholder='/tmp/golden/store/0hqh0gb3h2isv37rfbgp9pbp7200iwwg-attrs-dev'
declare str='it'\''s "q"
	tab \ back /slash [31m é'
declare system='x86_64-linux'
declare whole=3
declare yes=1
