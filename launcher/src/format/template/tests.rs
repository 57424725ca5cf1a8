use serde_json::json;

use super::*;

fn render(source: &str) -> Result<String, TemplateError> {
    let data = json!({
        "Id": "abc",
        "Name": "/web",
        "Up": true,
        "Down": false,
        "Code": 3,
        "Zero": 0,
        "Size": 1.5,
        "None": null,
        "Cmd": ["nginx", "-g", "daemon off;"],
        "Empty": [],
        "Labels": {"tier": "front", "com.example.a": "x y"},
        "Networks": {"n2": {"IPAddress": "10.0.0.3"}, "n1": {"IPAddress": "10.0.0.2"}},
        "Mounts": [{"Type": "volume", "Source": "/v"}, {"Type": "bind", "Source": "/b"}],
    });
    let labels = json!({"tier": "front"});
    Template::parse(source)?.render_row(&data, labels.as_object().unwrap())
}

#[test]
fn renders_as_go_does() {
    let rows = [
        ("plain", "plain"),
        ("{{.Name}}", "/web"),
        ("{{.ID}} {{.Id}}", "abc abc"),
        ("{{.Up}} {{.Code}} {{.Size}}", "true 3 1.5"),
        ("{{.Cmd}} {{.Empty}}", "[nginx -g daemon off;] []"),
        ("{{.Labels}}", "map[com.example.a:x y tier:front]"),
        ("{{.None}}|{{.Labels.x}}", "<no value>|<no value>"),
        ("{{.Labels.tier}}", "front"),
        (r#"{{index .Labels "com.example.a"}}"#, "x y"),
        (r#"{{index .Labels "none"}}|"#, "|"),
        (r#"{{(index .Networks "n1").IPAddress}}"#, "10.0.0.2"),
        ("{{(index .Mounts 1).Type}}", "bind"),
        ("{{index .Cmd 0}}", "nginx"),
        ("{{range .Mounts}}{{.Type}} {{end}}", "volume bind "),
        (
            "{{range $k, $v := .Networks}}{{$k}}={{$v.IPAddress}} {{end}}",
            "n1=10.0.0.2 n2=10.0.0.3 ",
        ),
        (
            "{{range $i, $c := .Cmd}}{{if $i}},{{end}}{{$c}}{{end}}",
            "nginx,-g,daemon off;",
        ),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .None}}x{{end}}", ""),
        (
            "{{range .Cmd}}{{if eq . \"-g\"}}{{break}}{{end}}{{.}}{{end}}",
            "nginx",
        ),
        (
            "{{range .Cmd}}{{if eq . \"-g\"}}{{continue}}{{end}}{{.}} {{end}}",
            "nginx daemon off; ",
        ),
        ("{{range .Mounts}}{{$.Name}}{{end}}", "/web/web"),
        ("{{if .Up}}up{{else}}down{{end}}", "up"),
        ("{{if .Down}}a{{else if eq .Code 3}}b{{else}}c{{end}}", "b"),
        ("{{if and .Up .Zero}}y{{else}}n{{end}}", "n"),
        ("{{or .None .Name}} {{not .Up}}", "/web false"),
        (
            "{{with .Labels}}{{.tier}}{{end}}{{with .None}}x{{else}}-{{end}}",
            "front-",
        ),
        ("{{with $x := .Code}}{{$x}}{{end}}", "3"),
        (
            "{{$x := 1}}{{range .Cmd}}{{$x = .}}{{end}}{{$x}}",
            "daemon off;",
        ),
        (
            "{{json .Labels}}",
            r#"{"com.example.a":"x y","tier":"front"}"#,
        ),
        (
            "{{json .Name}} {{json .None}} {{.Cmd | json}}",
            r#""/web" null ["nginx","-g","daemon off;"]"#,
        ),
        (
            r#"{{join .Cmd " "}}|{{join .None ","}}"#,
            "nginx -g daemon off;|",
        ),
        (
            r#"{{split .Name "/"}} {{index (split "a:b" ":") 1}}"#,
            "[ web] b",
        ),
        (
            "{{upper .Name}} {{lower \"AbC\"}} {{title \"two words\"}}",
            "/WEB abc Two Words",
        ),
        (
            "{{len .Cmd}} {{len .Labels}} {{len .Name}} {{len .None}}",
            "3 2 4 0",
        ),
        ("{{slice .Id 0 2}} {{slice .Cmd 1 2}}", "ab [-g]"),
        (
            r#"{{printf "%-4s|%3d|%q|%.1f%%" .Id .Code .Id .Size}}"#,
            "abc |  3|\"abc\"|1.5%",
        ),
        (r#"{{printf "%s" }}"#, "%!s(MISSING)"),
        (
            "{{print 1 2 \"x\" 3}}|{{println .Id .Code}}|",
            "1 2x3|abc 3\n|",
        ),
        ("{{pad .Id 1 2}}|{{truncate .Name 3}}", " abc  |/we"),
        (
            "{{eq .Code 1 2 3}} {{ne .Code 3}} {{lt .Code 4}} {{ge .Id \"abd\"}}",
            "true false true false",
        ),
        (r#"{{.Label "tier"}}|{{.Label "none"}}|"#, "front||"),
        ("a {{- /* note */ -}} b{{- 1 -}} c", "ab1c"),
        ("{{.Name}}\t{{`raw \\n`}}{{\"\\n\"}}", "/web\traw \\n\n"),
        ("{{- .Id -}}", "abc"),
        ("{{true}} {{-1}}", "true -1"),
        (r#"{{.Id | printf "%s-%s" "x" | upper}}"#, "X-ABC"),
    ];
    for (source, expected) in rows {
        assert_eq!(render(source).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn mistakes_are_named() {
    let rows = [
        ("{{.Nope}}", "template: no field \"Nope\" in this object"),
        (
            "{{.Name.Length}}",
            "template: no field \"Length\" in a text",
        ),
        ("{{.None.X}}", "template: no field \"X\" in nil"),
        (
            "{{nosuch .Id}}",
            "template parsing error: function \"nosuch\" not defined",
        ),
        ("{{$x}}", "template: undefined variable $x"),
        ("{{.Id 1}}", "template: .Id takes no arguments"),
        ("{{index .Cmd 9}}", "template: index: index out of range: 9"),
        ("{{join .Id}}", "template: join: wrong arguments: a text"),
        (
            "{{range .Code}}{{end}}",
            "template: range cannot iterate over a number",
        ),
        (
            "{{if .Up}}",
            "template parsing error: unclosed block: {{end}} is missing",
        ),
        ("{{end}}", "template parsing error: unexpected \"end\""),
        ("{{else}}", "template parsing error: unexpected \"else\""),
        ("{{}}", "template parsing error: missing value for command"),
        ("{{(.Id}}", "template parsing error: unclosed parenthesis"),
        ("{{.Id)}}", "template parsing error: unexpected \")\""),
        (
            "{{lt .Id 1}}",
            "template: lt: cannot compare a text with a number",
        ),
    ];
    for (source, expected) in rows {
        let error = render(source).unwrap_err().to_string();
        assert_eq!(error, expected, "{source}");
    }
}

#[test]
fn hostile_depth_is_refused() {
    let deep = format!("{}1{}", "{{if (".repeat(200), ")}}{{end}}".repeat(200));
    assert!(Template::parse(&deep).is_err());
    let blocks = format!("{}{}", "{{if 1}}".repeat(5000), "{{end}}".repeat(5000));
    assert_eq!(
        Template::parse(&blocks).unwrap_err(),
        TemplateError::TooDeep
    );
    let parens = format!("{{{{{}1{}}}}}", "(".repeat(5000), ")".repeat(5000));
    assert_eq!(
        Template::parse(&parens).unwrap_err(),
        TemplateError::TooDeep
    );
}
