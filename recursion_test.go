package swtpm_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestNoRecursion checks that no function of internal/io calls itself, directly or through
// others: a peer could choose the depth, and the stack would grow until the process is killed.
// A function that is only mentioned counts as called, and a method of an interface as all
// that implement it there.
func TestNoRecursion(t *testing.T) {
	g := loadCalls(t, "./internal/io/...")
	if len(g.calls) < 200 {
		t.Fatalf("only %d functions were found", len(g.calls))
	}
	for _, cycle := range g.cycles() {
		t.Errorf("recursion: %s", strings.Join(cycle, " → "))
	}
}

// TestRecursionIsFound checks that the search finds direct and mutual recursion, through methods,
// closures and interfaces.
func TestRecursionIsFound(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example\n")
	write("a.go", `package example

type walker interface{ walk(int) }
type tree struct{ next walker }

func (t tree) walk(n int)    { t.next.walk(n) }
func direct(n int)           { direct(n) }
func first(n int)            { func() { second(n) }() }
func second(n int)           { go first(n) }
func mention(n int) func(int) { return mentioned }
func mentioned(n int)        { mention(n) }
func plain(n int)            { direct(n); println(n) }
`)
	t.Chdir(dir)
	var got []string
	for _, cycle := range loadCalls(t, ".").cycles() {
		got = append(got, strings.Join(cycle, " "))
	}
	slices.Sort(got)
	want := []string{"(example.tree).walk (example.walker).walk", "example.direct", "example.first example.second", "example.mention example.mentioned"}
	if !slices.Equal(got, want) {
		t.Errorf("cycles = %q, want %q", got, want)
	}
}

// graph says which functions each function may call, by their full names: a package that
// is imported has other objects than the same package read from its source.
type graph struct {
	calls    map[string]map[string]bool
	methods  map[string]map[string]string // type → method → full name of the function
	abstract map[string][]string          // full name of an interface's method → all its methods
	wanted   map[string]string            // full name of an interface's method → the method
}

// listed is a package as go list describes it.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles, CgoFiles       []string
	DepOnly                 bool
}

// loadCalls reads the packages of a pattern.
func loadCalls(t *testing.T, pattern string) *graph {
	t.Helper()
	out, err := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,CgoFiles,DepOnly", pattern).Output()
	if err != nil {
		t.Fatal(err)
	}
	exports := map[string]string{}
	var ours []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if !p.DepOnly {
			ours = append(ours, p)
		}
	}
	g := &graph{map[string]map[string]bool{}, map[string]map[string]string{}, map[string][]string{}, map[string]string{}}
	for _, p := range ours {
		g.add(t, p, exports)
	}
	g.implement()
	return g
}

// add type-checks one package and notes what its functions mention.
func (g *graph) add(t *testing.T, p listed, exports map[string]string) {
	t.Helper()
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range append(p.GoFiles, p.CgoFiles...) {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	lookup := func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) }
	conf := types.Config{Importer: importer.ForCompiler(fset, "gc", lookup), FakeImportC: true}
	info := &types.Info{Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}}
	_, err := conf.Check(p.ImportPath, fset, files, info)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		for _, d := range f.Decls {
			decl, ok := d.(*ast.FuncDecl)
			if !ok || decl.Body == nil {
				continue
			}
			g.declare(info.Defs[decl.Name].(*types.Func))
			ast.Inspect(decl.Body, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok {
					if to, ok := info.Uses[id].(*types.Func); ok {
						g.mention(info.Defs[decl.Name].(*types.Func), to.Origin())
					}
				}
				return true
			})
		}
	}
}

// declare notes a function.
func (g *graph) declare(f *types.Func) {
	g.calls[f.FullName()] = map[string]bool{}
	recv := f.Signature().Recv()
	if recv == nil {
		return
	}
	name := strings.TrimPrefix(recv.Type().String(), "*")
	if g.methods[name] == nil {
		g.methods[name] = map[string]string{}
	}
	g.methods[name][method(f)] = f.FullName()
}

// mention notes that one function may call another.
func (g *graph) mention(from, to *types.Func) {
	g.calls[from.FullName()][to.FullName()] = true
	recv := to.Signature().Recv()
	if recv == nil || !types.IsInterface(recv.Type()) {
		return
	}
	i := recv.Type().Underlying().(*types.Interface)
	var names []string
	for n := range i.NumMethods() {
		names = append(names, method(i.Method(n)))
	}
	g.abstract[to.FullName()] = names
	g.wanted[to.FullName()] = method(to)
}

// method names a method and its type, which an implementation has, too.
func method(f *types.Func) string {
	text := f.Name()
	for _, tuple := range []*types.Tuple{f.Signature().Params(), f.Signature().Results()} {
		text += " ->"
		for v := range tuple.Variables() {
			text += " " + v.Type().String()
		}
	}
	return text
}

// implement makes each method of an interface call the methods that may implement it.
func (g *graph) implement() {
	for method, all := range g.abstract {
		g.calls[method] = map[string]bool{}
		for _, has := range g.methods {
			if !slices.ContainsFunc(all, func(m string) bool { return has[m] == "" }) {
				g.calls[method][has[g.wanted[method]]] = true
			}
		}
	}
}

// cycles returns, of each set of functions that call each other, the names.
func (g *graph) cycles() (found [][]string) {
	seen := map[string]bool{}
	for f := range g.calls {
		if seen[f] || !g.reaches(f, f) {
			continue
		}
		var names []string
		for o := range g.calls {
			if g.reaches(f, o) && g.reaches(o, f) {
				seen[o] = true
				names = append(names, strings.ReplaceAll(o, module+"internal/io/", ""))
			}
		}
		slices.Sort(names)
		found = append(found, names)
	}
	return found
}

// reaches reports whether from may call to, through others or not.
func (g *graph) reaches(from, to string) bool {
	visited := map[string]bool{}
	for next := []string{from}; len(next) > 0; {
		f := next[len(next)-1]
		next = next[:len(next)-1]
		for callee := range g.calls[f] {
			if callee == to {
				return true
			}
			if !visited[callee] {
				visited[callee] = true
				next = append(next, callee)
			}
		}
	}
	return false
}
